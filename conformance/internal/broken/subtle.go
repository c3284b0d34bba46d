package broken

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// subtle are faults that a sound program might not meet for long.
func subtle() []row[faults] {
	return []row[faults]{
		{"the listener says port 0", "listener-address", Any, faults{addr: func(l *badListener) transport.Addr {
			a := l.Listener.Addr()
			a.HostPort = "127.0.0.1:0"
			return a
		}}},
		{"the dialling side knows nobody", "both-know", Any, faults{info: func(i transport.Info) transport.Info {
			if i.Dialer {
				i.RemotePeer = identity.ID{}
			}
			return i
		}}},
		{"the addresses have no scheme", "info", Any, faults{info: func(i transport.Info) transport.Info {
			i.LocalAddr.Scheme, i.RemoteAddr.Scheme = "", ""
			return i
		}}},
		{"Info is empty when the connection has ended", "info", Any, faults{infoOf: func(c *badConn) transport.Info {
			if c.Conn.Context().Err() != nil {
				return transport.Info{}
			}
			return c.Conn.Info()
		}}},
		{"a failed dial does not say whom", "dial-nobody", Any, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			c, err := t.Transport.Dial(ctx, addr)
			return c, mapped(err, func(e *transport.OpError) error {
				addr.Peer = identity.ID{}
				return &transport.OpError{Op: e.Op, Addr: addr, Err: e.Err}
			})
		}}},
		{"a dial tells the cause of its context's end", "dial-cancelled-before", Any, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			if ctx.Err() != nil {
				return nil, &transport.OpError{Op: "dial", Addr: addr, Err: context.Cause(ctx)}
			}
			return t.Transport.Dial(ctx, addr)
		}}},
		{"fifty dials are all", "dial-cancelled-anytime", Any, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			if t.n.Add(1) > 50 {
				return nil, errPlain
			}
			return t.Transport.Dial(ctx, addr)
		}}},
		{"the context of Listen bounds the listener", "listen-context", Any, faults{listen: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Listener, error) {
			ln, err := t.Transport.Listen(ctx, addr)
			if err == nil {
				context.AfterFunc(ctx, func() { ln.Close() })
			}
			return ln, err
		}}},
		{"a failed Listen does not say where", "address-in-use", Any, faults{listen: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Listener, error) {
			ln, err := t.Transport.Listen(ctx, addr)
			return ln, mapped(err, func(e *transport.OpError) error { return e.Err })
		}}},
		{"each connection is accepted twice", "accepts-all", Any, faults{accept: func(l *badListener, ctx context.Context) (transport.Conn, error) {
			l.mu.Lock()
			again := l.again
			l.again = nil
			l.mu.Unlock()
			if again != nil {
				return again, nil
			}
			c, err := l.Listener.Accept(ctx)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.again = c
			return c, err
		}}},
		{"an Accept that waits holds up another", "accept-context", Any, faults{accept: func(l *badListener, ctx context.Context) (transport.Conn, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.Listener.Accept(ctx)
		}}},
		{"Transport.Close refuses what nobody has accepted", "transport-close", Any, faults{closeAll: func(t *badTransport) error {
			t.mu.Lock()
			lns := t.lns
			t.mu.Unlock()
			for _, ln := range lns {
				ln.Close()
			}
			return t.Transport.Close()
		}}},

		{"an AcceptStream that waits holds up another", "stream-contexts", Any, faults{acceptS: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.Conn.AcceptStream(ctx)
		}}},
		{"a second AcceptStream waits as the first does", "one-stream-only", OneStream, faults{acceptS: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.Conn.AcceptStream(ctx)
		}}},
		{"Write says that it took a byte more", "bytes-in-order", Any, faults{write: func(s *badStream, b []byte) (int, error) {
			n, err := s.Stream.Write(b)
			if err == nil && n > 1 {
				n++
			}
			return n, err
		}}},
		{"a Write of more than 4 MiB is refused", "large-write", Any, faults{write: func(s *badStream, b []byte) (int, error) {
			if len(b) > 4<<20 {
				return 0, errPlain
			}
			return s.Stream.Write(b)
		}}},
		{"CloseWrite drops the last bytes of many", "close-write-eof", Any, faults{write: func(s *badStream, b []byte) (int, error) {
			if s.out.Load() < 64<<10 || len(b) < 100 {
				return s.Stream.Write(b)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			kept := len(b) - 10
			if _, err := s.Stream.Write(append(s.held, b[:kept]...)); err != nil {
				return 0, err
			}
			s.held = bytes.Clone(b[kept:])
			return len(b), nil
		}}},
		{"CloseWrite waits for a Write", "close-write-blocked", Any, faults{write: func(s *badStream, b []byte) (int, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.Stream.Write(b)
		}, closeWrite: func(s *badStream) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.Stream.CloseWrite()
		}}},
		{"Close waits until all was read", "close-delivers-all", Any, faults{closeBoth: func(s *badStream) error {
			if s.out.Load() > 64<<10 {
				s.Stream.CloseWrite()
				<-s.c.Conn.Context().Done()
			}
			return s.Stream.Close()
		}}},
		{"Read after our Close is the end", "close-locally", Any, faults{closeBoth: func(s *badStream) error {
			s.mark.Store(true)
			return s.Stream.Close()
		}, read: onRead(func(s *badStream, err error) error {
			if s.mark.Load() {
				return io.EOF
			}
			return err
		})}},
		{"Close under a Write that waits is a CloseWrite to the peer", "blocked-write-at-peer-close", Any, faults{write: func(s *badStream, b []byte) (int, error) {
			s.mark.Store(true)
			defer s.mark.Store(false)
			return s.Stream.Write(b)
		}, closeBoth: func(s *badStream) error {
			if s.mark.Load() {
				return s.Stream.CloseWrite()
			}
			return s.Stream.Close()
		}}},
		{"Close after the peer's Reset fails", "reset-remote", Any, faults{read: onRead(func(s *badStream, err error) error {
			if r := (*transport.ResetError)(nil); errors.As(err, &r) && r.Remote {
				s.mark.Store(true)
			}
			return err
		}), closeBoth: func(s *badStream) error {
			if s.mark.Load() {
				return errPlain
			}
			return s.Stream.Close()
		}}},
		{"Reset without a fault is a Close", "reset-codes", Any, faults{reset: func(s *badStream, code transport.Code) error {
			if code == transport.CodeNone {
				return s.Stream.Close()
			}
			return s.Stream.Reset(code)
		}}},
		{"Reset with the code of a Close is a Close", "reset-codes", Any, faults{reset: func(s *badStream, code transport.Code) error {
			if code == transport.CodeClosed {
				return s.Stream.Close()
			}
			return s.Stream.Reset(code)
		}}},
		{"two Closes at once are an error", "close-locally", Any, faults{closeBoth: func(s *badStream) error {
			if s.mark.Swap(true) {
				return errPlain
			}
			defer s.mark.Store(false)
			err := s.Stream.Close()
			<-time.After(moment)
			return err
		}}},
		{"unread bytes of streams that were reset count for ever", "places-come-back-rude", Any, faults{reset: func(s *badStream, code transport.Code) error {
			s.c.m.Add(s.out.Load())
			return s.Stream.Reset(code)
		}, write: func(s *badStream, b []byte) (int, error) {
			if s.c.m.Load() > 8<<20 {
				<-s.c.Conn.Context().Done()
			}
			return s.Stream.Write(b)
		}}},
		{"deadlines have whole seconds", "deadline-ends", Any, faults{readBy: func(s *badStream, t time.Time) error {
			if !t.IsZero() {
				t = t.Add(time.Second)
			}
			return s.Stream.SetReadDeadline(t)
		}}},
		{"a time-out does not say Timeout", "deadline-ends", Any, faults{read: onRead(func(s *badStream, err error) error {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return &net.OpError{Op: "read", Err: errors.Join(err)}
			}
			return err
		})}},
		{"a passed deadline does not matter when bytes are there", "deadline-past", Any, faults{readBy: func(s *badStream, t time.Time) error {
			if !t.IsZero() && time.Until(t) < 0 {
				t = time.Now().Add(moment)
			}
			return s.Stream.SetReadDeadline(t)
		}}},
		{"a Write that times out says that it took all", "writes-with-timeouts", Any, faults{write: func(s *badStream, b []byte) (int, error) {
			n, err := s.Stream.Write(b)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				n = len(b)
			}
			return n, err
		}}},
		{"a Read that waits holds up other streams", "neighbours-move", Any, faults{read: func(s *badStream, b []byte) (int, error) {
			s.c.mu.Lock()
			defer s.c.mu.Unlock()
			return s.Stream.Read(b)
		}}},

		{"the Context never ends", "close-reaches", Any, faults{context: func(*badConn) context.Context { return context.Background() }}},
		{"reasons have 255 bytes", "close-reaches", Any, faults{closeConn: func(c *badConn, code transport.Code, reason string) error {
			return c.Conn.CloseWithError(code, reason[:min(len(reason), 255)])
		}}},
		{"a Write after the peer's close says that the connection was lost", "close-reaches", Any, faults{write: onWrite(func(s *badStream, err error) error {
			return mapped(err, func(e *transport.CloseError) error {
				if !e.Remote {
					return e
				}
				return &transport.LostError{Err: errPlain}
			})
		})}},
		{"what had come is read after our close", "close-unread", Any, faults{read: func(s *badStream, b []byte) (int, error) {
			n, err := s.Stream.Read(b)
			if e := (*transport.CloseError)(nil); errors.As(err, &e) && !e.Remote && e.Code == 301 && len(b) > 0 && !s.mark.Swap(true) {
				return 1, nil
			}
			return n, err
		}}},
		{"once the end was read a close is something else", "eof-then-close", Any, faults{read: onRead(func(s *badStream, err error) error {
			if err == io.EOF {
				s.mark.Store(true)
			}
			if s.mark.Load() && s.c.Conn.Context().Err() != nil {
				return errPlain
			}
			return err
		})}},
		{"the cause of our close says that it was the peer's", "close-is-local", Any, faults{context: func(c *badConn) context.Context {
			ended := c.Conn.Context()
			if e := (*transport.CloseError)(nil); errors.As(context.Cause(ended), &e) && !e.Remote {
				ctx, cancel := context.WithCancelCause(context.Background())
				cancel(&transport.CloseError{Code: e.Code, Reason: e.Reason, Remote: true})
				return ctx
			}
			return ended
		}}},
		{"closing again gives another cause", "close-again", Any, faults{closeConn: func(c *badConn, code transport.Code, reason string) error {
			if c.Conn.Context().Err() != nil {
				c.ended.Store(true)
			}
			return c.Conn.CloseWithError(code, reason)
		}, context: func(c *badConn) context.Context {
			if !c.ended.Load() {
				return c.Conn.Context()
			}
			ctx, cancel := context.WithCancelCause(context.Background())
			cancel(&transport.CloseError{Code: 401, Reason: "second"})
			return ctx
		}}},
		{"a quiet connection ends", "quiet-lives", OverUDP, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			c, err := t.Transport.Dial(ctx, addr)
			if err == nil {
				quiet := time.AfterFunc(time.Second, func() { c.CloseWithError(transport.CodeIdle, "") })
				context.AfterFunc(c.Context(), func() { quiet.Stop() })
			}
			return c, err
		}}},
		{"a reset stream leaves its connection open", "one-stream-reset", OneStream, faults{reset: func(s *badStream, code transport.Code) error {
			if s.accepted {
				return s.Stream.CloseWrite()
			}
			return s.Stream.Reset(code)
		}}},
		{"each connection leaves a goroutine until the transport is closed", "ends-leave-nothing", Any, faults{accept: func(l *badListener, ctx context.Context) (transport.Conn, error) {
			c, err := l.Listener.Accept(ctx)
			if err == nil {
				l.t.spawnUntilClosed()
			}
			return c, err
		}, closeAll: func(t *badTransport) error {
			t.release()
			return t.Transport.Close()
		}}},
		{"ReceiveDatagram does not hear why", "datagram-ends", Datagrams, faults{receive: func(c datagramConn, ctx context.Context) ([]byte, error) {
			b, err := c.d.ReceiveDatagram(ctx)
			return b, mapped(err, func(*transport.CloseError) error { return net.ErrClosed })
		}}},
	}
}
