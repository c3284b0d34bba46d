package broken

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// hasty gives a dial little time.
func hasty(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
	short, cancel := context.WithTimeout(ctx, 15*moment)
	defer cancel()
	c, err := t.Transport.Dial(short, addr)
	if err != nil && ctx.Err() == nil && short.Err() != nil {
		err = &transport.OpError{Op: "dial", Addr: addr, Err: errPlain}
	}
	return c, err
}

// timeoutError is a time-out that is not os.ErrDeadlineExceeded.
type timeoutError struct{}

func (timeoutError) Error() string   { return "too late" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

// hostile are faults as a reviewer would think of them who wants to get past the rules.
func hostile() []row[faults] {
	var first atomic.Pointer[identity.ID]
	return []row[faults]{
		{"the last connection is accepted first", "accept-fair", Any, faults{accept: func(l *badListener, ctx context.Context) (transport.Conn, error) {
			c, err := l.Listener.Accept(ctx)
			if err != nil {
				return nil, err
			}
			l.t.mu.Lock()
			defer l.t.mu.Unlock()
			ended, cancel := context.WithCancel(ctx)
			cancel()
			for ; err == nil; c, err = l.Listener.Accept(ended) {
				l.t.stack = append(l.t.stack, c)
			}
			last := len(l.t.stack) - 1
			c, l.t.stack = l.t.stack[last], l.t.stack[:last]
			return c, nil
		}}},
		{"the last stream is accepted first", "accept-stream-fair", Any, faults{acceptS: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			s, err := c.Conn.AcceptStream(ctx)
			if err != nil {
				return nil, err
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			ended, cancel := context.WithCancel(ctx)
			cancel()
			for ; err == nil; s, err = c.Conn.AcceptStream(ended) {
				c.stack = append(c.stack, s)
			}
			last := len(c.stack) - 1
			s, c.stack = c.stack[last], c.stack[:last]
			return s, nil
		}}},
		{"300 connections that stay silent are the most", "half-open", OverTCP, faults{listen: frontListen(300), addr: frontAddr, closeAll: closeFront}},
		{"a dial that Close ends leaves a goroutine", "close-in-handshake", OverTCP, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			late := t.ended.Load()
			c, err := t.Transport.Dial(ctx, addr)
			if errors.Is(err, net.ErrClosed) && !late {
				go func() { <-t.f.done }()
			}
			return c, err
		}, closeAll: func(t *badTransport) error {
			t.ended.Store(true)
			return t.Transport.Close()
		}}},
		{"a handshake over a slow network is given up", "network-splits", OverTCP, faults{dial: hasty}},
		{"a lost packet is not sent again", "network-loses", OverUDP, faults{dial: hasty}},
		{"what was changed on the way is the end of the stream", "network-corrupts", OverTCP, faults{read: onRead(func(s *badStream, err error) error {
			if errors.Is(err, transport.ErrLost) && strings.Contains(err.Error(), "tls: ") {
				return io.EOF
			}
			return err
		})}},
		{"a handshake that is cut is waited for", "network-cuts", OverTCP, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			c, err := t.Transport.Dial(ctx, addr)
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				<-ctx.Done()
			}
			return c, err
		}}},
		{"a close that comes with data is the end of the stream", "data-before-close", Any, faults{read: onRead(func(s *badStream, err error) error {
			if n := s.in.Load(); n > 1<<10 && n < 1<<20 && errors.Is(err, transport.CodeNone) {
				return io.EOF
			}
			return err
		})}},
		{"fifty streams left open are all", "abandoned-streams", Any, faults{open: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			if c.n.Load()-c.m.Load() > 50 {
				return nil, errPlain
			}
			return c.Conn.OpenStream(ctx)
		}, closeBoth: func(s *badStream) error {
			s.c.m.Add(1)
			return s.Stream.Close()
		}, reset: func(s *badStream, code transport.Code) error {
			s.c.m.Add(1)
			return s.Stream.Reset(code)
		}}},

		{"the context of OpenStream bounds the stream", "stream-outlives-context", Any, faults{open: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			s, err := c.Conn.OpenStream(ctx)
			if err == nil {
				context.AfterFunc(ctx, func() { s.Reset(transport.CodeCancelled) })
			}
			return s, err
		}}},
		{"the context of AcceptStream bounds the stream", "stream-outlives-context", Any, faults{acceptS: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			s, err := c.Conn.AcceptStream(ctx)
			if err == nil {
				context.AfterFunc(ctx, func() { s.Reset(transport.CodeCancelled) })
			}
			return s, err
		}}},
		{"the context of Accept bounds the connection", "listen-context", Any, faults{accept: func(l *badListener, ctx context.Context) (transport.Conn, error) {
			c, err := l.Listener.Accept(ctx)
			if err == nil {
				context.AfterFunc(ctx, func() { c.CloseWithError(transport.CodeCancelled, "") })
			}
			return c, err
		}}},
		{"CloseWrite under a Write that waits is lost", "close-write-blocked", Any, faults{write: func(s *badStream, b []byte) (int, error) {
			s.mark.Store(true)
			defer s.mark.Store(false)
			return s.Stream.Write(b)
		}, closeWrite: func(s *badStream) error {
			if s.mark.Load() {
				return nil
			}
			return s.Stream.CloseWrite()
		}}},
		{"Reset under a Write that waits has no code", "reset-remote", Any, faults{write: func(s *badStream, b []byte) (int, error) {
			s.mark.Store(true)
			defer s.mark.Store(false)
			return s.Stream.Write(b)
		}, reset: func(s *badStream, code transport.Code) error {
			if s.mark.Load() {
				code = 0
			}
			return s.Stream.Reset(code)
		}}},
		{"a long Write loses its last byte", "bytes-in-order", Any, faults{write: func(s *badStream, b []byte) (int, error) {
			if len(b) < 100<<10 {
				return s.Stream.Write(b)
			}
			n, err := s.Stream.Write(b[:len(b)-1])
			if err == nil {
				n++
			}
			return n, err
		}}},
		{"a long Write takes a half and says nothing", "large-write", Any, faults{write: func(s *badStream, b []byte) (int, error) {
			if len(b) > 1<<20 {
				b = b[:len(b)/2]
			}
			return s.Stream.Write(b)
		}}},
		{"Read returns nothing now and then", "small-reads", Any, faults{read: func(s *badStream, b []byte) (int, error) {
			if s.reads.Add(1)%50 == 0 {
				return 0, nil
			}
			return s.Stream.Read(b)
		}}},
		{"io.EOF is wrapped", "close-write-eof", Any, faults{read: onRead(func(s *badStream, err error) error {
			if err == io.EOF {
				return fmt.Errorf("the end: %w", err)
			}
			return err
		})}},
		{"a second Close fails", "close-locally", Any, faults{closeBoth: func(s *badStream) error {
			if s.mark.Swap(true) {
				return net.ErrClosed
			}
			return s.Stream.Close()
		}}},
		{"SetDeadline is for reads only", "deadline-past", Any, faults{deadline: func(s *badStream, t time.Time) error {
			return s.Stream.SetReadDeadline(t)
		}}},
		{"a deadline cannot be taken away", "deadline-past", Any, faults{readBy: func(s *badStream, t time.Time) error {
			if t.IsZero() {
				return nil
			}
			return s.Stream.SetReadDeadline(t)
		}}},
		{"a time-out is not os.ErrDeadlineExceeded", "deadline-ends", Any, faults{read: onRead(func(s *badStream, err error) error {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return timeoutError{}
			}
			return err
		})}},
		{"a stream's own address is the peer's", "stream-addresses", Any, faults{local: func(s *badStream) transport.Addr {
			return s.c.Conn.Info().RemoteAddr
		}}},
		{"the addresses are swapped", "info", Any, faults{info: func(i transport.Info) transport.Info {
			i.LocalAddr, i.RemoteAddr = i.RemoteAddr, i.LocalAddr
			return i
		}}},
		{"whoever came first is taken for all who come", "both-know", Any, faults{info: func(i transport.Info) transport.Info {
			if !i.Dialer {
				first.CompareAndSwap(nil, &i.RemotePeer)
				i.RemotePeer = *first.Load()
			}
			return i
		}}},
		{"the wrong peer is not named", "wrong-peer", Any, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			c, err := t.Transport.Dial(ctx, addr)
			if errors.Is(err, identity.ErrWrongPeer) {
				err = &transport.OpError{Op: "dial", Addr: addr, Err: identity.ErrWrongPeer}
			}
			return c, err
		}}},
		{"an Accept that was cancelled says something else", "accept-context", Any, faults{accept: func(l *badListener, ctx context.Context) (transport.Conn, error) {
			c, err := l.Listener.Accept(ctx)
			if err != nil && ctx.Err() != nil {
				err = errPlain
			}
			return c, err
		}}},
		{"closing a listener again fails", "listener-close", Any, faults{closeLn: func(l *badListener) error {
			if l.n.Add(1) > 1 {
				return net.ErrClosed
			}
			return l.Listener.Close()
		}}},
		{"closing a transport again fails", "transport-close", Any, faults{closeAll: func(t *badTransport) error {
			if t.n.Add(1) > 1 {
				return net.ErrClosed
			}
			return t.Transport.Close()
		}}},
		{"each dial that fails leaves a goroutine until the transport is closed", "ends-leave-nothing", Any, faults{
			dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
				c, err := t.Transport.Dial(ctx, addr)
				if err != nil {
					t.spawnUntilClosed()
				}
				return c, err
			}, closeAll: func(t *badTransport) error {
				defer t.release()
				return t.Transport.Close()
			}}},
		{"OpenStream beyond the limit fails at once", "open-unaccepted", Any, faults{open: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			s, err := c.Conn.OpenStream(ctx)
			if errors.Is(err, context.DeadlineExceeded) {
				err = errPlain
			}
			return s, err
		}}},
		{"AcceptStream after the end does not say why", "close-reaches", Any, faults{acceptS: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			if c.Conn.Context().Err() != nil {
				return nil, net.ErrClosed
			}
			return c.Conn.AcceptStream(ctx)
		}}},
		{"the accepting side's reasons are lost", "close-reaches", Any, faults{closeConn: func(c *badConn, code transport.Code, reason string) error {
			if !c.Conn.Info().Dialer {
				reason = ""
			}
			return c.Conn.CloseWithError(code, reason)
		}}},
		{"ErrUnexpectedEOF is the end of the stream", "cut-by-fin", OverTCP, faults{read: onRead(func(s *badStream, err error) error {
			if errors.Is(err, transport.ErrLost) && !isReset(err) {
				return io.EOF
			}
			return err
		})}},
		{"ECONNRESET is the end of the stream", "cut-by-reset", OverTCP, faults{read: onRead(func(s *badStream, err error) error {
			if errors.Is(err, transport.ErrLost) && isReset(err) {
				return io.EOF
			}
			return err
		})}},
		{"a dial looks at deadlines only", "dial-cancelled-during", OverTCP, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			only := context.WithoutCancel(ctx)
			if by, ok := ctx.Deadline(); ok {
				var cancel context.CancelFunc
				only, cancel = context.WithDeadline(only, by)
				defer cancel()
			}
			return t.Transport.Dial(only, addr)
		}}},
		{"a side opens forty streams and no more", "open-both-sides", Any, faults{open: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			if c.n.Load() > 40 {
				return nil, errPlain
			}
			return c.Conn.OpenStream(ctx)
		}}},
		{"Close with a few bytes unread is a reset", "close-both", Any, faults{closeBoth: func(s *badStream) error { return s.closeUnless(0) }}},
		{"Close with many bytes unread is a reset", "close-with-unread", Any, faults{closeBoth: func(s *badStream) error { return s.closeUnless(10 << 10) }}},
		{"closing a lost connection gives it another cause", "cause-of-loss", OverTCP, faults{closeConn: func(c *badConn, code transport.Code, reason string) error {
			if errors.Is(context.Cause(c.Conn.Context()), transport.ErrLost) {
				c.ended.Store(true)
			}
			return c.Conn.CloseWithError(code, reason)
		}, context: func(c *badConn) context.Context {
			if !c.ended.Load() {
				return c.Conn.Context()
			}
			ctx, cancel := context.WithCancelCause(context.Background())
			cancel(&transport.CloseError{Code: 1})
			return ctx
		}}},
		{"whoever offers h2 is let in", "strangers-dial", OverTCP, faults{listen: frontListen(1000), addr: frontAddr, closeAll: closeFront,
			accept: func(l *badListener, ctx context.Context) (transport.Conn, error) {
				if f, ok := l.Listener.(*front); ok && f.odd.Swap(false) {
					return impostor{}, nil
				}
				return l.Listener.Accept(ctx)
			}}},
		{"a certificate that is none does not say where", "strangers-listen", OverTCP, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			c, err := t.Transport.Dial(ctx, addr)
			var ve *identity.VerifyError
			if errors.As(err, &ve) && !errors.Is(err, identity.ErrWrongPeer) {
				err = ve
			}
			return c, err
		}}},
		{"a peer that comes back is nobody", "another-key-resumes", OverTCP, faults{info: func(i transport.Info) transport.Info {
			if !i.Dialer && i.Resumed {
				i.RemotePeer = identity.ID{1}
			}
			return i
		}}},
		{"datagrams come in a buffer that is used again", "datagrams-whole", Datagrams, faults{receive: func(c datagramConn, ctx context.Context) ([]byte, error) {
			b, err := c.d.ReceiveDatagram(ctx)
			if err != nil {
				return nil, err
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.buf == nil {
				c.buf = make([]byte, 64<<10)
			}
			return c.buf[:copy(c.buf, b)], nil
		}}},
	}
}

// closeUnless closes s, or resets it if more than so many bytes are there to be read.
func (s *badStream) closeUnless(unread int) error {
	s.Stream.SetReadDeadline(time.Now().Add(moment))
	b := make([]byte, 32<<10)
	for n := 0; ; {
		m, err := s.Stream.Read(b)
		if n += m; n > unread {
			return s.Stream.Reset(0)
		}
		if err != nil {
			return s.Stream.Close()
		}
	}
}

// impostor is a connection that somebody has whom nobody knows.
type impostor struct{ transport.Conn }

func (impostor) Info() transport.Info { return transport.Info{RemotePeer: identity.ID{1}} }

func isReset(err error) bool { return strings.Contains(err.Error(), "reset by peer") }
