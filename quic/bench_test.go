package quic

import (
	"io"
	"testing"

	"github.com/Blockchain-CN/pheromones/transport"
)

func BenchmarkThroughput(b *testing.B) {
	dialled, accepted := pair(b, nil)
	ctx := newContext(b)
	w, err := dialled.OpenStream(ctx)
	if err != nil {
		b.Fatal(err)
	}
	chunk := make([]byte, 1<<20)
	b.SetBytes(int64(len(chunk)))
	b.ResetTimer()
	done := make(chan error, 1)
	go func() {
		defer w.Close()
		for range b.N {
			if _, err := w.Write(chunk); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	r, err := accepted.AcceptStream(ctx)
	if err != nil {
		b.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, r); err != nil || n != int64(b.N)<<20 {
		b.Fatalf("read %d bytes, %v", n, err)
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

func BenchmarkExchange(b *testing.B) {
	dialled, accepted := pair(b, nil)
	for b.Loop() {
		exchange(b, dialled, accepted)
	}
}

func BenchmarkDial(b *testing.B) {
	for _, resume := range []bool{false, true} {
		name := "full"
		if resume {
			name = "resumed"
		}
		b.Run(name, func(b *testing.B) {
			l := newListener(b, newTransport(b, newKey(b), nil), "127.0.0.1:0")
			tr := newTransport(b, newKey(b), nil)
			addr := l.Addr()
			if !resume {
				addr.Peer = [32]byte{}
			}
			for b.Loop() {
				c := dial(b, tr, addr)
				exchange(b, c, accept(b, l))
				c.CloseWithError(transport.CodeNone, "")
			}
		})
	}
}
