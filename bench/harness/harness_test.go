package harness

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// lying is a network of pipes, whose dialling ends spoil what they write.
type lying struct {
	NoCalls
	serve func(Stream)
	wait  *sync.WaitGroup
	spoil func(write func([]byte) (int, error), p []byte) (int, error)
}

func (l lying) Dial(context.Context) (Conn, error) { return l, nil }
func (l lying) Close() error                       { return nil }

func (l lying) Open(context.Context) (Stream, error) {
	near, far := net.Pipe()
	l.wait.Go(func() { l.serve(far) })
	return lyingStream{near, l}, nil
}

type lyingStream struct {
	net.Conn
	l lying
}

func (s lyingStream) Write(p []byte) (int, error) {
	if s.l.spoil == nil {
		return s.Conn.Write(p)
	}
	return s.l.spoil(s.Conn.Write, p)
}

type lyingNetwork struct{ lying }

func (n lyingNetwork) Close() error {
	n.wait.Wait()
	return nil
}

// TestVerification has a peer lose, repeat and change what it carries: no figure may come of that.
func TestVerification(t *testing.T) {
	type writer = func([]byte) (int, error)
	nth := func(n int, spoil func(write writer, p []byte) (int, error)) func(write writer, p []byte) (int, error) {
		return func(write writer, p []byte) (int, error) {
			if n--; n == 0 {
				return spoil(write, p)
			}
			return write(p)
		}
	}
	flip := func(write writer, p []byte) (int, error) {
		p = append([]byte(nil), p...)
		p[len(p)/2] ^= 1
		return write(p)
	}
	lose := func(_ writer, p []byte) (int, error) { return len(p), nil }
	twice := func(write writer, p []byte) (int, error) {
		write(p)
		return write(p)
	}
	for _, test := range []struct {
		name, scenario, want string
		spoil                func(write writer, p []byte) (int, error)
	}{
		{"honest", "exchange", "", nil},
		{"honest", "bulk-1", "", nil},
		{"honest", "tail", "", nil},
		{"flips a bit", "exchange", "a request: byte", nth(3, flip)},
		{"flips a bit", "bulk-1", "a bulk transfer: byte", nth(5, flip)},
		{"loses a chunk", "bulk-1", "a bulk transfer: byte", nth(5, lose)},
		{"repeats a chunk", "bulk-1", "a bulk transfer: byte", nth(5, twice)},
	} {
		t.Run(test.name+", "+test.scenario, func(t *testing.T) {
			p := Peer{Name: "lying", New: func(_ Options, serve func(Stream)) (Network, error) {
				return lyingNetwork{lying{serve: serve, wait: new(sync.WaitGroup), spoil: test.spoil}}, nil
			}}
			for _, m := range Cross(p) {
				if m.Scenario != test.scenario {
					continue
				}
				f, err := m.Run(t.Context(), 5*time.Millisecond)
				switch {
				case test.want == "" && (err != nil || f.Value <= 0):
					t.Errorf("got %v, %v", f, err)
				case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
					t.Errorf("got %v, want an error with %q", err, test.want)
				}
				return
			}
			t.Fatal("the scenario is not there")
		})
	}
}
