package conformance

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/Blockchain-CN/pheromones/transport"
	"golang.org/x/net/nettest"
)

// netTest runs nettest.TestConn on streams of every kind. Its subtests report to the rule's own *testing.T.
func netTest(e *env) {
	l := &link{env: e, dialer: e.node(), acceptor: e.node()}
	l.ln = e.listen(l.acceptor)
	openers := []string{"dialler", "acceptor"}
	if e.traits.OneStream {
		openers = openers[:1]
	}
	for _, opener := range openers {
		for _, reverse := range []bool{false, true} {
			e.t.Run(fmt.Sprintf("opener=%s,reverse=%v", opener, reverse), func(t *testing.T) {
				nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
					d, a, err := l.connection(e.ctx)
					if err != nil {
						return nil, nil, nil, err
					}
					from, to := d, a
					if opener == "acceptor" {
						from, to = a, d
					}
					x, y, err := visibleStream(e.ctx, from, to)
					if err != nil {
						return nil, nil, nil, err
					}
					if reverse {
						x, y = y, x
					}
					return x, y, func() {
						x.Close()
						y.Close()
						d.CloseWithError(transport.CodeNone, "")
						a.CloseWithError(transport.CodeNone, "")
					}, nil
				})
			})
		}
	}
}

// connection is redial with errors, for goroutines that are not the check's.
func (l *link) connection(ctx context.Context) (d, a transport.Conn, err error) {
	accepted := make(chan error, 1)
	go func() {
		var err error
		a, err = l.ln.Accept(ctx)
		accepted <- err
	}()
	if d, err = l.dialer.Dial(ctx, l.ln.Addr()); err != nil {
		return nil, nil, err
	}
	return d, a, <-accepted
}

// visibleStream opens a stream, writes the byte that makes it visible and reads it on the other side.
func visibleStream(ctx context.Context, from, to transport.Conn) (x, y transport.Stream, err error) {
	if x, err = from.OpenStream(ctx); err != nil {
		return nil, nil, err
	}
	if _, err = x.Write([]byte{prelude}); err != nil {
		return nil, nil, err
	}
	if y, err = to.AcceptStream(ctx); err != nil {
		return nil, nil, err
	}
	_, err = io.ReadFull(y, make([]byte, 1))
	return x, y, err
}
