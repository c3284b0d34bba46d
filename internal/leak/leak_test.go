package leak

import (
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func TestNothingLeft(t *testing.T) {
	before := Take()
	done := make(chan struct{})
	go close(done)
	<-done
	if err := before.Check(10 * time.Second); err != nil {
		t.Error(err)
	}
}

func TestGoroutineLeft(t *testing.T) {
	before := Take()
	release, done := make(chan struct{}), make(chan struct{})
	go leaky(release, done)
	err := before.Check(20 * time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "1 goroutines") || !strings.Contains(err.Error(), "leak.leaky(") {
		t.Errorf("got %v, want the one goroutine with its stack", err)
	}
	close(release)
	<-done
	if err := before.Check(10 * time.Second); err != nil {
		t.Errorf("after it ended: %v", err)
	}
}

func leaky(release, done chan struct{}) {
	defer close(done)
	<-release
}

func TestSocketLeft(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("sockets are counted on Linux only")
	}
	before := Take()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := before.Check(0); err == nil || !strings.Contains(err.Error(), "1 sockets") {
		t.Errorf("got %v, want one socket", err)
	}
	ln.Close()
	if err := before.Check(10 * time.Second); err != nil {
		t.Errorf("after it was closed: %v", err)
	}
}
