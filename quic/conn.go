package quic

import (
	"context"
	"errors"
	"fmt"
	"time"

	quicgo "github.com/quic-go/quic-go"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Conn implements [transport.Conn] and [transport.DatagramConn]. All methods may be called at once from any goroutine.
type Conn struct {
	t         *Transport
	quic      *quicgo.Conn
	socket    *socket
	peer      identity.ID
	local     transport.Addr
	dialer    bool
	resumed   bool
	datagrams bool            // the peer takes some
	confirmed <-chan struct{} // closed when the accepting side has finished the handshake; nil if we are that side

	ctx    context.Context // ends with the connection; its cause is a *CloseError or a *LostError
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the connection has left nothing behind

	route route
}

// end notes an error that quic-go gives for the end of the connection, and returns why the connection ended.
func (c *Conn) end(err error) error {
	c.cancel(connError(err))
	return context.Cause(c.ctx)
}

// ended cleans up; it is called once, when the connection has ended.
func (c *Conn) ended() {
	defer c.t.wg.Done()
	defer close(c.done)
	c.end(context.Cause(c.quic.Context()))
	c.endSides()
	c.t.release(c.socket, nil) // before the connection is forgotten: whoever finds none finds the address free
	c.t.mu.Lock()
	delete(c.t.conns, c)
	c.t.mu.Unlock()
}

// OpenStream implements [transport.Conn].
func (c *Conn) OpenStream(ctx context.Context) (transport.Stream, error) {
	if c.ctx.Err() != nil {
		return c.stream(ctx, "open stream", nil, context.Cause(c.ctx))
	}
	// First without ctx: a stream that may be opened now is had even if ctx has ended.
	q, err := c.quic.OpenStream()
	if err != nil {
		var limit *quicgo.StreamLimitReachedError
		if errors.As(err, &limit) {
			q, err = c.quic.OpenStreamSync(ctx)
		}
	}
	return c.stream(ctx, "open stream", q, err)
}

// AcceptStream implements [transport.Conn].
func (c *Conn) AcceptStream(ctx context.Context) (transport.Stream, error) {
	q, err := c.quic.AcceptStream(ctx)
	return c.stream(ctx, "accept stream", q, err)
}

func (c *Conn) stream(ctx context.Context, op string, q *quicgo.Stream, err error) (transport.Stream, error) {
	if err == nil {
		return &Stream{conn: c, quic: q}, nil
	}
	return nil, &transport.OpError{Op: op, Addr: c.Info().RemoteAddr, Err: c.waitError(ctx, err)}
}

// waitError says why a wait that ctx bounds failed.
func (c *Conn) waitError(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, ctx.Err()) || errors.Is(err, context.Cause(ctx))) {
		return ctxError(ctx)
	}
	return c.end(err)
}

// Info implements [transport.Conn]. The remote address is that of the moment: a peer whose NAT gives it another port keeps
// its connections, and a connection may migrate; by a tunnel, it is the tunnel's label.
func (c *Conn) Info() transport.Info {
	return transport.Info{
		LocalPeer:  c.t.id,
		RemotePeer: c.peer,
		LocalAddr:  c.local,
		RemoteAddr: c.remoteAddr(),
		Dialer:     c.dialer,
		Resumed:    c.resumed,
	}
}

// Context implements [transport.Conn].
func (c *Conn) Context() context.Context { return c.ctx }

// CloseWithError implements [transport.Conn]. On the dialling side it lets the peer finish the handshake first, or else
// the peer could not read code and reason; that takes a round trip after Dial, and never more than a second.
func (c *Conn) CloseWithError(code transport.Code, reason string) error {
	if c.confirmed != nil {
		patience := min(3*c.quic.ConnectionStats().SmoothedRTT+250*time.Millisecond, time.Second)
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-c.confirmed:
		case <-c.quic.Context().Done():
		case <-timer.C:
		}
	}
	c.quic.CloseWithError(quicgo.ApplicationErrorCode(code), cut(reason))
	<-c.done
	return nil
}

// SendDatagram implements [transport.DatagramConn]. While 32 datagrams wait for the network to take them it waits, until
// it takes one or the connection ends.
func (c *Conn) SendDatagram(p []byte) error {
	err := c.quic.SendDatagram(p)
	var large *quicgo.DatagramTooLargeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &large):
		return fmt.Errorf("quic: the datagram has %d bytes, the path carries %d", len(p), large.MaxDatagramPayloadSize)
	case !c.datagrams:
		return fmt.Errorf("quic: the peer takes no datagrams: %w", errors.ErrUnsupported)
	}
	return c.end(err)
}

// ReceiveDatagram implements [transport.DatagramConn]. Up to 128 datagrams are kept for it; what comes then is dropped.
func (c *Conn) ReceiveDatagram(ctx context.Context) ([]byte, error) {
	p, err := c.quic.ReceiveDatagram(ctx)
	if err != nil {
		return nil, c.waitError(ctx, err)
	}
	return p, nil
}
