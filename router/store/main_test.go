package store

import (
	"os"
	"testing"

	"github.com/Blockchain-CN/pheromones/internal/leak"
)

// childEnv names what this test binary is to do instead of its tests, with the path of a table.
const childEnv = "PHEROMONES_STORE_CHILD"

func TestMain(m *testing.M) {
	if role := os.Getenv(childEnv); role != "" {
		os.Exit(child(role, os.Args[len(os.Args)-1]))
	}
	os.Exit(leak.Main(m))
}
