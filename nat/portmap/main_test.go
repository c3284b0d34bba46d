package portmap

import (
	"os"
	"testing"

	"github.com/Blockchain-CN/pheromones/internal/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }
