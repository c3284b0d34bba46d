package tlsnet

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/internal/outq"
)

// countedConn counts the writes, and fails them when it is told to.
type countedConn struct {
	net.Conn
	writes int
	err    error
}

func (c *countedConn) Write(b []byte) (int, error) {
	c.writes++
	if c.err != nil {
		return len(b) / 2, c.err
	}
	return c.Conn.Write(b)
}

// newCounted returns a writer over a counted connection, and what arrives at the other end of it.
func newCounted(t *testing.T) (*writer, *countedConn, io.Reader) {
	t.Helper()
	server, err := newKey(t).ServerTLS("raw/1")
	if err != nil {
		t.Fatal(err)
	}
	client, err := newKey(t).ClientTLS("raw/1", identity.ID{})
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	t.Cleanup(func() {
		near.Close()
		far.Close()
	})
	counted := &countedConn{Conn: near}
	g := newGatherer(counted)
	// The server writes last, so the pipe must be read for its session to leave.
	w := &writer{tls.Client(g, client), g, new(outq.Pool)}
	other := tls.Server(far, server)
	done := make(chan error, 1)
	go func() { done <- other.Handshake() }()
	if err := w.raw.Handshake(); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, w.raw)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	counted.writes = 0
	return w, counted, other
}

func TestGather(t *testing.T) {
	for _, test := range []struct {
		name         string
		size, writes int
	}{
		{"a byte", 1, 1},
		{"a record", 16 << 10, 1},
		{"two records", 16<<10 + 1, 1},
		{"what a queue lets gather", 64<<10 + 32<<10, 1},
		{"more than a buffer", 300 << 10, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, counted, other := newCounted(t)
			sent := bytes.Repeat([]byte("abcdefg"), test.size/7+1)[:test.size]
			for range 2 {
				counted.writes = 0
				done := make(chan error, 1)
				go func() {
					_, err := w.Write(sent)
					done <- err
				}()
				got := make([]byte, len(sent))
				if _, err := io.ReadFull(other, got); err != nil {
					t.Fatal(err)
				}
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, sent) {
					t.Error("other bytes arrived")
				}
				if counted.writes != test.writes {
					t.Errorf("%d writes, want %d", counted.writes, test.writes)
				}
			}
		})
	}
}

// TestGatherFails has a write fail half-way: nothing may follow it.
func TestGatherFails(t *testing.T) {
	w, counted, _ := newCounted(t)
	counted.err = errors.New("broken")
	if _, err := w.Write(make([]byte, 50<<10)); !errors.Is(err, counted.err) {
		t.Errorf("got %v, want the network's error", err)
	}
	if counted.writes != 1 {
		t.Errorf("%d writes, want 1", counted.writes)
	}
	if _, err := w.Write([]byte{1}); !errors.Is(err, counted.err) {
		t.Errorf("a later Write: got %v, want the network's error", err)
	}
	if err := w.raw.CloseWrite(); !errors.Is(err, counted.err) {
		t.Errorf("CloseWrite: got %v, want the network's error", err)
	}
	if counted.writes != 1 {
		t.Errorf("%d writes, want no more", counted.writes)
	}
}
