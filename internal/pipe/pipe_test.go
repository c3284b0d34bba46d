package pipe

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// The queue behaves as a plain slice of bytes does, whatever the sizes of what goes in and out.
func TestRing(t *testing.T) {
	for _, limit := range []int{1, 7, 512, 1000, 4096} {
		p := New(limit, nil)
		rng := rand.New(rand.NewPCG(1, uint64(limit)))
		var model []byte
		for range 5000 {
			if in := make([]byte, rng.IntN(limit+1)); rng.IntN(2) == 0 {
				for i := range in {
					in[i] = byte(rng.Uint32())
				}
				err := p.Push(in)
				if fits := len(model)+len(in) <= limit; fits != (err == nil) {
					t.Fatalf("limit %d: Push of %d to %d: %v", limit, len(in), len(model), err)
				}
				if err == nil {
					model = append(model, in...)
				}
			} else if len(model) > 0 {
				n, err := p.Read(in)
				if err != nil || n != min(len(in), len(model)) || !bytes.Equal(in[:n], model[:n]) {
					t.Fatalf("limit %d: Read of %d from %d: %d, %v", limit, len(in), len(model), n, err)
				}
				model = model[n:]
			}
		}
	}
}

func TestWaiting(t *testing.T) {
	stop, gone := errors.New("stop"), errors.New("gone")
	for _, c := range []struct {
		name      string
		act       func(p *Pipe)
		read      error // what a Read that waits returns
		write     error // what a Write that waits for room returns
		afterTime time.Duration
	}{
		{"CloseWrite", func(p *Pipe) { p.CloseWrite(stop) }, io.EOF, stop, 0},
		{"CloseRead", func(p *Pipe) { p.CloseRead(stop, gone) }, stop, gone, 0},
		{"Break", func(p *Pipe) { p.Break(stop, gone) }, stop, gone, 0},
		{"deadlines", func(p *Pipe) {
			p.SetReadDeadline(time.Now().Add(time.Hour))
			p.SetWriteDeadline(time.Now().Add(time.Hour))
		}, os.ErrDeadlineExceeded, os.ErrDeadlineExceeded, time.Hour},
		{"deadlines moved", func(p *Pipe) {
			p.SetReadDeadline(time.Now().Add(time.Hour))
			p.SetWriteDeadline(time.Now().Add(time.Hour))
			p.SetReadDeadline(time.Now().Add(time.Minute))
			p.SetWriteDeadline(time.Now().Add(time.Minute))
		}, os.ErrDeadlineExceeded, os.ErrDeadlineExceeded, time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				empty, full := New(4, nil), New(4, nil)
				full.Push([]byte("full"))
				read, write := make(chan error, 1), make(chan error, 1)
				go func() {
					_, err := empty.Read(make([]byte, 1))
					read <- err
				}()
				go func() {
					n, err := full.Write([]byte("x"))
					if n != 0 {
						t.Errorf("Write queued %d bytes where there was no room", n)
					}
					write <- err
				}()
				synctest.Wait()
				began := time.Now()
				c.act(empty)
				c.act(full)
				if err := <-read; err != c.read {
					t.Errorf("Read: %v, want %v", err, c.read)
				}
				if err := <-write; err != c.write {
					t.Errorf("Write: %v, want %v", err, c.write)
				}
				if took := time.Since(began); took != c.afterTime {
					t.Errorf("it took %v, want %v", took, c.afterTime)
				}
			})
		})
	}
}

// The end is told once, when both ends are done, and not before.
func TestEnded(t *testing.T) {
	var ends int
	p := New(4, func() { ends++ })
	p.Push([]byte("ab"))
	p.CloseWrite(io.ErrClosedPipe)
	if ends != 0 {
		t.Fatal("ended with bytes unread")
	}
	if b, err := io.ReadAll(p); string(b) != "ab" || err != nil {
		t.Fatalf("read %q, %v", b, err)
	}
	p.Break(io.ErrClosedPipe, io.ErrClosedPipe)
	if ends != 1 {
		t.Fatalf("told %d times of the end, want once", ends)
	}
	if _, err := p.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("after the end of file and Break, Read: %v", err)
	}
}
