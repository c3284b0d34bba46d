package main

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Blockchain-CN/pheromones/transport"
)

// copyBuffer is the size, in bytes, of the buffer of one direction of a connection.
const copyBuffer = 128 << 10

// maxForwards bounds the connections that a forwarder carries at once; others wait to be accepted.
const maxForwards = 256

// conn is what is joined: a [transport.Stream] or a [*net.TCPConn].
type conn interface {
	net.Conn
	CloseWrite() error
}

// join carries bytes between a and b both ways until both directions have ended, and closes both. The end of a direction is
// handed on as such, and a reset as a reset. When ctx ends both are reset. The error says what broke a direction off.
func join(ctx context.Context, a, b conn) error {
	stop := context.AfterFunc(ctx, func() {
		abort(a, transport.CodeShutdown)
		abort(b, transport.CodeShutdown)
	})
	defer stop()
	var back error
	var other sync.WaitGroup
	other.Go(func() { back = carry(a, b) })
	there := carry(b, a)
	other.Wait()
	a.Close()
	b.Close()
	return errors.Join(there, back)
}

// carry hands on what comes from src to dst. If src breaks, so is dst, in both directions. If dst takes no more, nothing is
// reset: what dst has sent before may still be under way to whoever reads from src.
func carry(dst, src conn) error {
	buf := make([]byte, copyBuffer)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return dst.CloseWrite()
		case err != nil:
			abort(dst, transport.CodeCancelled)
			return err
		}
	}
}

// abort resets a connection.
func abort(c conn, code transport.Code) {
	switch c := c.(type) {
	case transport.Stream:
		c.Reset(code)
	case *net.TCPConn:
		c.SetLinger(0)
		c.Close()
	}
}

// forwarder joins each connection that a listener accepts with one of its own.
type forwarder struct {
	// dial makes the connection that the accepted one is joined with.
	dial func(ctx context.Context) (conn, error)
	// refused is told why dial failed, and ended how a connection has ended, perhaps with nil.
	refused, ended func(from net.Addr, err error)

	carrying atomic.Int64 // how many connections there are
}

// serve accepts until l is closed, and returns when every connection has ended. When ctx ends they are reset.
func (f *forwarder) serve(ctx context.Context, l net.Listener) error {
	var running sync.WaitGroup
	defer running.Wait()
	places := make(chan struct{}, maxForwards)
	for {
		places <- struct{}{}
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			// The system is short of something; others may give it back.
			<-places
			select {
			case <-time.After(100 * time.Millisecond):
				continue
			case <-ctx.Done():
				return err
			}
		}
		running.Go(func() {
			defer func() { <-places }()
			f.forward(ctx, c.(conn))
		})
	}
}

func (f *forwarder) forward(ctx context.Context, c conn) {
	f.carrying.Add(1)
	defer f.carrying.Add(-1)
	to, err := f.dial(ctx)
	if err != nil {
		f.refused(c.RemoteAddr(), err)
		abort(c, transport.CodeRefused)
		return
	}
	f.ended(c.RemoteAddr(), join(ctx, c, to))
}
