module github.com/Blockchain-CN/pheromones/bench/harness

go 1.26.0
