module github.com/Blockchain-CN/pheromones/examples/websocket

go 1.26.0

require github.com/Blockchain-CN/pheromones v0.0.0

require (
	github.com/pion/dtls/v3 v3.1.5 // indirect
	github.com/pion/logging v0.2.4 // indirect
	github.com/pion/stun/v3 v3.1.7 // indirect
	github.com/pion/transport/v4 v4.1.0 // indirect
	github.com/wlynxg/anet v0.0.5 // indirect
	go.etcd.io/bbolt v1.4.3 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

require (
	github.com/coder/websocket v1.8.15
	golang.org/x/net v0.62.0 // indirect
)

replace github.com/Blockchain-CN/pheromones => ../..
