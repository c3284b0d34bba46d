package mux_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/mux"
	"github.com/Blockchain-CN/pheromones/transport"
)

// TestPlainYamux talks to yamux as it comes, whose frames are as long as the window lets them be.
func TestPlainYamux(t *testing.T) {
	makers := map[string]func(identity.Key) (transport.Transport, error){
		"ours":  func(key identity.Key) (transport.Transport, error) { return mux.New(key, nil) },
		"plain": newBare,
	}
	for _, test := range []struct{ dialer, listener string }{{"plain", "ours"}, {"ours", "plain"}} {
		t.Run(test.dialer+" dials "+test.listener, func(t *testing.T) {
			var sides []transport.Transport
			for _, name := range []string{test.dialer, test.listener} {
				key, err := identity.Generate()
				if err != nil {
					t.Fatal(err)
				}
				tr, err := makers[name](key)
				if err != nil {
					t.Fatal(err)
				}
				defer tr.Close()
				sides = append(sides, tr)
			}
			ctx := t.Context()
			l, err := sides[1].Listen(ctx, transport.Addr{Scheme: mux.Scheme, HostPort: "127.0.0.1:0"})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			accepted := make(chan transport.Conn, 1)
			go func() {
				defer close(accepted)
				c, err := l.Accept(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				accepted <- c
				s, err := c.AcceptStream(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(s)
				if err != nil {
					t.Error(err)
				}
				s.Write(got)
				s.CloseWrite()
			}()
			c, err := sides[0].Dial(ctx, l.Addr())
			if err != nil {
				t.Fatal(err)
			}
			defer c.CloseWithError(transport.CodeNone, "")
			if other := <-accepted; other != nil {
				defer other.CloseWithError(transport.CodeNone, "")
			}
			s, err := c.OpenStream(ctx)
			if err != nil {
				t.Fatal(err)
			}
			var sent []byte
			for i, size := range []int{1, 100, 500, 512, 1000, 100 << 10, 3, 200 << 10, 256 << 10, 1 << 20, 7} {
				part := bytes.Repeat([]byte{byte(i + 1)}, size)
				sent = append(sent, part...)
				if _, err := s.Write(part); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("got %d bytes, %v; want the %d that were sent", len(got), err, len(sent))
			}
			for range accepted {
			}
		})
	}
}
