module github.com/Blockchain-CN/pheromones/examples/websocket

go 1.26.0

require github.com/Blockchain-CN/pheromones v0.0.0

require (
	go.etcd.io/bbolt v1.4.3 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

require (
	github.com/coder/websocket v1.8.15
	golang.org/x/net v0.62.0 // indirect
)

replace github.com/Blockchain-CN/pheromones => ../..
