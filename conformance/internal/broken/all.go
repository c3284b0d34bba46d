package broken

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// plain are faults of every kind, in the order of the rules that must catch them.
func plain() []row[faults] {
	return []row[faults]{
		{"an address is not in its one form", "address-round-trip", Any, faults{info: func(i transport.Info) transport.Info {
			i.LocalAddr.HostPort = "LOCALHOST:1"
			return i
		}}},
		{"an address without a port is dialled", "address-refused", Any, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			if err := addr.Check("mem"); err != nil {
				return nil, &transport.OpError{Op: "dial", Addr: addr, Err: errPlain}
			}
			return t.Transport.Dial(ctx, addr)
		}}},
		{"the listener does not know its ID", "listener-address", Any, faults{addr: func(l *badListener) transport.Addr {
			a := l.Listener.Addr()
			a.Peer = identity.ID{}
			return a
		}}},
		{"listening with an ID is refused", "listen-with-own-id", Any, faults{listen: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Listener, error) {
			if !addr.Peer.IsZero() {
				return nil, errPlain
			}
			return t.Transport.Listen(ctx, addr)
		}}},
		{"only the first address of a name is dialled", "dial-several", OverTCP, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			host, port, _ := net.SplitHostPort(addr.HostPort)
			if t.names == nil {
				return t.Transport.Dial(ctx, addr)
			}
			ips, err := t.names.LookupHost(ctx, host)
			if err != nil {
				return nil, &transport.OpError{Op: "dial", Addr: addr, Err: err}
			}
			addr.HostPort = net.JoinHostPort(ips[0], port)
			return t.Transport.Dial(ctx, addr)
		}}},
		{"a name that is not there is an address that is not there", "dial-several", OverTCP, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			c, err := t.Transport.Dial(ctx, addr)
			var dns *net.DNSError
			if errors.As(err, &dns) {
				err = &transport.OpError{Op: "dial", Addr: addr, Err: errPlain}
			}
			return c, err
		}}},
		{"a peer that was dialled by name may be anybody", "dial-by-name", OverTCP, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			if host, _, _ := net.SplitHostPort(addr.HostPort); net.ParseIP(host) == nil {
				addr.Peer = identity.ID{}
			}
			return t.Transport.Dial(ctx, addr)
		}}},
		{"names are not looked up", "dial-by-name", OverTCP, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			if strings.HasPrefix(addr.HostPort, "localhost") {
				return nil, errPlain
			}
			return t.Transport.Dial(ctx, addr)
		}}},
		{"IPv6 is unknown", "dial-ipv6", OverTCP, faults{listen: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Listener, error) {
			if strings.HasPrefix(addr.HostPort, "[") {
				return nil, errPlain
			}
			return t.Transport.Listen(ctx, addr)
		}}},
		{"the scheme is not looked at", "foreign-scheme", Any, faults{listen: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Listener, error) {
			addr.Scheme, addr.HostPort = "mem", "127.0.0.1:0"
			return t.Transport.Listen(ctx, addr)
		}}},

		{"the accepting side knows nobody", "both-know", Any, faults{info: func(i transport.Info) transport.Info {
			if !i.Dialer {
				i.RemotePeer = identity.ID{}
			}
			return i
		}}},
		{"the ID dialled is not checked", "wrong-peer", Any, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			addr.Peer = identity.ID{}
			return t.Transport.Dial(ctx, addr)
		}}},
		{"the ID not dialled stays unknown", "any-peer", Any, faults{info: func(i transport.Info) transport.Info {
			i.RemoteAddr.Peer = identity.ID{}
			return i
		}}},
		{"the ID is checked the first time only", "resumed-peer", Any, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			if t.n.Add(1) > 1 {
				addr.Peer = identity.ID{}
			}
			return t.Transport.Dial(ctx, addr)
		}}},
		{"who answered at an address is remembered", "another-at-same-address", Any, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			if t.n.Add(1) > 2 {
				addr.Peer = identity.ID{}
			}
			return t.Transport.Dial(ctx, addr)
		}}},
		{"Traits do not say whose the transport is", "traits", Any, faults{traits: func(t transport.Traits) transport.Traits {
			t.LocalPeer = identity.ID{}
			return t
		}}},
		{"both sides say that they dialled", "info", Any, faults{info: func(i transport.Info) transport.Info {
			i.Dialer = true
			return i
		}}},

		{"a failed dial does not say where", "dial-nobody", Any, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			c, err := t.Transport.Dial(ctx, addr)
			return c, mapped(err, func(e *transport.OpError) error { return e.Err })
		}}},
		{"a refusal is not noticed", "dial-refused", Any, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			c, err := t.Transport.Dial(ctx, addr)
			if err != nil {
				<-ctx.Done()
			}
			return c, err
		}}},
		{"an ended context does not matter", "dial-cancelled-before", Any, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			return t.Transport.Dial(context.WithoutCancel(ctx), addr)
		}}},
		{"the context of Dial bounds the connection", "listen-context", Any, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			c, err := t.Transport.Dial(ctx, addr)
			if err == nil {
				context.AfterFunc(ctx, func() { c.CloseWithError(1, "") })
			}
			return c, err
		}}},
		{"a cancelled dial says something else", "dial-cancelled-during", OverTCP, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			c, err := t.Transport.Dial(ctx, addr)
			if err != nil {
				err = &transport.OpError{Op: "dial", Addr: addr, Err: errPlain}
			}
			return c, err
		}}},
		{"a cancelled dial goes on in the background", "dial-cancelled-anytime", Any, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			if ctx.Done() != nil && t.n.Add(1)%10 == 0 {
				go func() { <-t.f.done }()
			}
			return t.Transport.Dial(ctx, addr)
		}}},
		{"a dial waits for the handshake for ever", "dial-silent", OverTCP, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			return t.Transport.Dial(context.WithoutCancel(ctx), addr)
		}}},
		{"a failed handshake does not say where", "dial-garbage", OverTCP, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			c, err := t.Transport.Dial(ctx, addr)
			return c, mapped(err, func(e *transport.OpError) error { return e.Err })
		}}},
		{"one dial at a time", "concurrent-dials", Any, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			if t.n.Add(1) > 1 {
				return nil, errPlain
			}
			return t.Transport.Dial(ctx, addr)
		}}},
		{"connections are lost in the queue", "accepts-all", Any, faults{accept: func(l *badListener, ctx context.Context) (transport.Conn, error) {
			if l.n.Add(1)%3 == 0 {
				l.Listener.Accept(ctx)
			}
			return l.Listener.Accept(ctx)
		}}},
		{"a cancelled Accept closes the listener", "accept-context", Any, faults{accept: func(l *badListener, ctx context.Context) (transport.Conn, error) {
			c, err := l.Listener.Accept(ctx)
			if err != nil {
				l.Listener.Close()
			}
			return c, err
		}}},
		{"an ended context hides the connection", "ready-connection-wins", Any, faults{accept: func(l *badListener, ctx context.Context) (transport.Conn, error) {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			return l.Listener.Accept(ctx)
		}}},
		{"a cancelled Accept takes the connection with it", "accept-race", Any, faults{accept: func(l *badListener, ctx context.Context) (transport.Conn, error) {
			return dropping(ctx, l.Listener.Accept)
		}}},
		{"closing the listener closes what it accepted", "listener-close", Any, faults{closeLn: func(l *badListener) error {
			for _, c := range l.t.conns {
				c.Conn.CloseWithError(6, "")
			}
			return l.Listener.Close()
		}}},
		{"a closed listener keeps its address", "listener-frees-address", Any, faults{closeLn: func(l *badListener) error { return nil }}},
		{"connections in the queue of a closed listener live on", "listener-close-queued", Any, faults{closeLn: func(l *badListener) error {
			l.Listener.Accept(context.Background())
			return l.Listener.Close()
		}}},
		{"an address in use gives another", "address-in-use", Any, faults{listen: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Listener, error) {
			ln, err := t.Transport.Listen(ctx, addr)
			if err != nil {
				addr.HostPort = "127.0.0.1:0"
				ln, err = t.Transport.Listen(ctx, addr)
			}
			return ln, err
		}}},
		{"strangers are served one after the other", "strangers", OverTCP, faults{listen: frontListen(1), addr: frontAddr, closeAll: closeFront}},
		{"silent peers are kept", "strangers-shed", OverTCP, faults{}}, // the harness of this one is told of a shorter time-out
		{"a closed transport says something else", "transport-close", Any, faults{dial: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Conn, error) {
			c, err := t.Transport.Dial(ctx, addr)
			if errors.Is(err, net.ErrClosed) {
				err = errPlain
			}
			return c, err
		}}},
		{"the transport closes its connections with another code", "transport-close", Any, faults{closeAll: func(t *badTransport) error {
			t.mu.Lock()
			for _, c := range t.conns {
				c.Conn.CloseWithError(0, "")
			}
			t.mu.Unlock()
			return t.Transport.Close()
		}}},
		{"one listener at a time", "listen-several", Any, faults{listen: func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Listener, error) {
			ln, err := t.Transport.Listen(ctx, addr)
			t.mu.Lock()
			defer t.mu.Unlock()
			if t.ln != nil {
				t.ln.Close()
			}
			t.ln = ln
			return ln, err
		}}},

		{"the accepting side may not open", "open-both-sides", Any, faults{open: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			if !c.Info().Dialer {
				return nil, errors.ErrUnsupported
			}
			return c.Conn.OpenStream(ctx)
		}}},
		{"the first bytes wait for more", "visible-at-write", Any, faults{write: func(s *badStream, b []byte) (int, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.held == nil {
				s.held = bytes.Clone(b)
				return len(b), nil
			}
			if _, err := s.Stream.Write(s.held); err != nil {
				return 0, err
			}
			s.held = []byte{}
			return s.Stream.Write(b)
		}}},
		{"an empty stream is never seen", "visible-at-close-write", Any, faults{closeWrite: func(s *badStream) error {
			if s.out.Load() == 0 {
				return nil
			}
			return s.Stream.CloseWrite()
		}}},
		{"an empty stream that is closed is never seen", "visible-at-close", Any, faults{closeBoth: func(s *badStream) error {
			if s.out.Load() == 0 {
				return nil
			}
			return s.Stream.Close()
		}}},
		{"an empty stream that is reset is never seen", "visible-at-reset", Any, faults{reset: func(s *badStream, code transport.Code) error {
			if s.out.Load() == 0 {
				return nil
			}
			return s.Stream.Reset(code)
		}}},
		{"AcceptStream does not look at its context", "stream-contexts", Any, faults{acceptS: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			return c.Conn.AcceptStream(context.WithoutCancel(ctx))
		}}},
		{"an ended context hides the stream", "ready-stream-wins", Any, faults{acceptS: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			return c.Conn.AcceptStream(ctx)
		}}},
		{"a cancelled AcceptStream takes the stream with it", "accept-stream-race", Any, faults{acceptS: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			return dropping(ctx, c.Conn.AcceptStream)
		}}},
		{"OpenStream does not look at its context", "open-unaccepted", Any, faults{open: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			return c.Conn.OpenStream(context.WithoutCancel(ctx))
		}}},
		{"Write does not look at its deadline before something was read", "write-unaccepted", Any, faults{writeBy: func(s *badStream, t time.Time) error {
			return nil
		}}},
		{"a second stream fails with something else", "one-stream-only", OneStream, faults{open: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			s, err := c.Conn.OpenStream(ctx)
			if err != nil {
				err = errPlain
			}
			return s, err
		}}},
		{"a connection has 4,000 streams in it", "places-come-back", Any, faults{open: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			if c.n.Load() > 4000 {
				return nil, errPlain
			}
			return c.Conn.OpenStream(ctx)
		}}},
		{"each stream leaves some memory until its connection ends", "places-come-back", Any, faults{closeBoth: func(s *badStream) error {
			s.c.mu.Lock()
			s.c.buf = append(s.c.buf, make([]byte, 4<<10)...)
			s.c.mu.Unlock()
			return s.Stream.Close()
		}}},
		{"a reset stream keeps its place", "places-come-back-rude", Any, faults{open: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			if c.m.Load() > 1000 {
				return nil, errPlain
			}
			return c.Conn.OpenStream(ctx)
		}, reset: func(s *badStream, code transport.Code) error {
			s.c.m.Add(1)
			return s.Stream.Reset(code)
		}}},

		{"a bit is flipped", "bytes-in-order", Any, faults{read: func(s *badStream, b []byte) (int, error) {
			n, err := s.Stream.Read(b)
			flip(b[:n], 1<<20, s.in.Load())
			return n, err
		}}},
		{"reading one byte loses another", "small-reads", Any, faults{read: func(s *badStream, b []byte) (int, error) {
			n, err := s.Stream.Read(b)
			if len(b) == 1 && s.in.Load() == 2000 {
				n, err = s.Stream.Read(b)
			}
			return n, err
		}}},
		{"Write keeps the slice", "large-write", Any, faults{write: func(s *badStream, b []byte) (int, error) {
			if len(b) > 4<<20 {
				s.Stream.Write(b[:1<<20])
				go s.Stream.Write(b[1<<20:])
				return len(b), nil
			}
			return s.Stream.Write(b)
		}}},
		{"two Reads at once are an error", "nettest", Any, faults{read: func(s *badStream, b []byte) (int, error) {
			if s.mark.Swap(true) {
				return 0, errPlain
			}
			defer s.mark.Store(false)
			return s.Stream.Read(b)
		}}},
		{"io.EOF is said once", "close-write-eof", Any, faults{read: onRead(func(s *badStream, err error) error {
			if err == io.EOF && s.mark.Swap(true) {
				return errPlain
			}
			return err
		})}},
		{"CloseWrite closes both directions", "close-write-eof", Any, faults{closeWrite: func(s *badStream) error { return s.Stream.Close() }}},
		{"a Read that waits does not see the end", "close-write-wakes", Any, faults{read: func(s *badStream, b []byte) (n int, err error) {
			if waited(func() { n, err = s.Stream.Read(b) }) && err == io.EOF {
				err = errPlain
			}
			return n, err
		}}},
		{"a second CloseWrite fails", "write-after-close-write", Any, faults{closeWrite: func(s *badStream) error {
			if s.mark.Swap(true) {
				return net.ErrClosed
			}
			return s.Stream.CloseWrite()
		}}},
		{"a close without fault looks like the end of the stream", "no-false-eof", Any, faults{read: onRead(func(s *badStream, err error) error {
			if errors.Is(err, transport.CodeNone) {
				return io.EOF
			}
			return err
		})}},
		{"Close is a reset", "close-delivers", Any, faults{closeBoth: func(s *badStream) error { return s.Stream.Reset(0) }}},
		{"Close drops what does not fit", "close-delivers-all", Any, faults{closeBoth: func(s *badStream) error {
			if s.out.Load() > 60<<10 {
				return s.Stream.Reset(0)
			}
			return s.Stream.Close()
		}}},
		{"Close with bytes unread is a reset", "close-with-unread", Any, faults{closeBoth: func(s *badStream) error {
			if s.in.Load() <= 1 {
				return s.Stream.Reset(0)
			}
			return s.Stream.Close()
		}}},
		{"the second Close drops what the first wrote", "close-both", Any, faults{read: func(s *badStream, b []byte) (int, error) {
			n, err := s.Stream.Read(b)
			if err == io.EOF {
				err = errPlain
			}
			return n, err
		}}},
		{"Close does not unblock", "close-locally", Any, faults{closeBoth: func(s *badStream) error { return s.Stream.CloseWrite() }}},
		{"a write after the peer's Close fails with something else", "write-after-peer-close", Any, faults{write: onWrite(func(s *badStream, err error) error {
			return mapped(err, func(*transport.ResetError) error { return io.ErrClosedPipe })
		})}},
		{"a blocked write at the peer's Close fails with something else", "blocked-write-at-peer-close", Any, faults{write: func(s *badStream, b []byte) (n int, err error) {
			if waited(func() { n, err = s.Stream.Write(b) }) && err != nil {
				err = io.ErrClosedPipe
			}
			return n, err
		}}},
		{"the peer's Reset looks like ours", "reset-remote", Any, faults{read: onRead(func(s *badStream, err error) error {
			return mapped(err, func(r *transport.ResetError) error { return &transport.ResetError{Code: r.Code} })
		})}},
		{"Reset after CloseWrite is lost", "reset-remote", Any, faults{closeWrite: func(s *badStream) error {
			s.mark.Store(true)
			return s.Stream.CloseWrite()
		}, reset: func(s *badStream, code transport.Code) error {
			if s.mark.Load() {
				return nil
			}
			return s.Stream.Reset(code)
		}}},
		{"our Reset looks like the peer's", "reset-local", Any, faults{read: onRead(func(s *badStream, err error) error {
			return mapped(err, func(r *transport.ResetError) error { return &transport.ResetError{Code: r.Code, Remote: true} })
		})}},
		{"after Reset the rest is still read", "reset-unread", Any, faults{read: func(s *badStream, b []byte) (int, error) {
			n, err := s.Stream.Read(b)
			if err != nil && s.in.Load() == 101 {
				return len(b), nil
			}
			return n, err
		}}},
		{"Reset after Close counts", "reset-after-close", Any, faults{reset: func(s *badStream, code transport.Code) error {
			s.mark.Store(true)
			return s.Stream.Reset(code)
		}, read: onRead(func(s *badStream, err error) error {
			if s.mark.Load() {
				return &transport.ResetError{Code: 3, Remote: true}
			}
			return err
		})}},
		{"codes have 16 bits", "reset-codes", Any, faults{reset: func(s *badStream, code transport.Code) error { return s.Stream.Reset(code & 0xffff) }}},
		{"a read deadline bounds writes too", "deadline-past", Any, faults{readBy: func(s *badStream, t time.Time) error { return s.Stream.SetDeadline(t) }}},
		{"a deadline of this moment is none", "deadline-past", Any, faults{readBy: func(s *badStream, t time.Time) error {
			if ago := time.Since(t); ago >= 0 && ago < 100*time.Millisecond {
				return nil
			}
			return s.Stream.SetReadDeadline(t)
		}}},
		{"a write deadline is ignored", "deadline-ends", Any, faults{writeBy: func(*badStream, time.Time) error { return nil }}},
		{"a deadline counts from the next call on", "deadline-moved-earlier", Any, faults{readBy: func(s *badStream, t time.Time) error {
			if s.mark.Load() {
				return nil
			}
			return s.Stream.SetReadDeadline(t)
		}, read: func(s *badStream, b []byte) (int, error) {
			s.mark.Store(true)
			defer s.mark.Store(false)
			return s.Stream.Read(b)
		}}},
		{"a deadline cannot be taken away from a call", "deadline-moved-later", Any, faults{readBy: func(s *badStream, t time.Time) error {
			if s.mark.Load() {
				return nil
			}
			return s.Stream.SetReadDeadline(t)
		}, read: func(s *badStream, b []byte) (int, error) {
			s.mark.Store(true)
			defer s.mark.Store(false)
			return s.Stream.Read(b)
		}}},
		{"a write deadline bounds reads too", "deadline-one-way", Any, faults{writeBy: func(s *badStream, t time.Time) error { return s.Stream.SetDeadline(t) }}},
		{"a Read that times out loses a byte", "reads-with-timeouts", Any, faults{read: func(s *badStream, b []byte) (int, error) {
			if s.mark.Swap(false) {
				s.Stream.Read(b[:1])
			}
			n, err := s.Stream.Read(b)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				s.mark.Store(true)
			}
			return n, err
		}}},
		{"a Write that times out says that it took nothing", "writes-with-timeouts", Any, faults{write: func(s *badStream, b []byte) (int, error) {
			n, err := s.Stream.Write(b)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				n = 0
			}
			return n, err
		}}},
		{"a time-out is for ever", "deadline-then-end", Any, faults{read: func(s *badStream, b []byte) (int, error) {
			if s.mark.Load() {
				return 0, os.ErrDeadlineExceeded
			}
			n, err := s.Stream.Read(b)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				s.mark.Store(true)
			}
			return n, err
		}}},
		{"writing nothing sends something", "empty-writes", Any, faults{write: func(s *badStream, b []byte) (int, error) {
			if len(b) == 0 {
				s.Stream.Write([]byte{0})
				return 0, nil
			}
			return s.Stream.Write(b)
		}}},
		{"a large Write is cut in two", "concurrent-writes", Any, faults{write: func(s *badStream, b []byte) (int, error) {
			n, err := s.Stream.Write(b[:len(b)/2])
			if err != nil {
				return n, err
			}
			runtime.Gosched()
			m, err := s.Stream.Write(b[len(b)/2:])
			return n + m, err
		}}},
		{"a stream has an address of its own", "stream-addresses", Any, faults{local: func(s *badStream) transport.Addr {
			return transport.Addr{Scheme: "mem", HostPort: "127.0.0.1:1"}
		}}},
		{"there are at most 500 streams", "thousand-streams", Any, faults{open: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			if c.n.Load() > 500 {
				return nil, errPlain
			}
			return c.Conn.OpenStream(ctx)
		}}},
		{"a bit is flipped far behind", "64-mib-each-way", Any, faults{read: func(s *badStream, b []byte) (int, error) {
			n, err := s.Stream.Read(b)
			flip(b[:n], 50<<20, s.in.Load())
			return n, err
		}}},

		{"Write takes everything", "writer-blocks", Any, faults{write: swallow}},
		{"Write takes everything until the stream is accepted", "writer-blocks-unaccepted", Any, faults{write: swallow}},
		{"streams wait for each other", "neighbours-move", Any, faults{write: func(s *badStream, b []byte) (int, error) {
			s.c.mu.Lock()
			defer s.c.mu.Unlock()
			return s.Stream.Write(b)
		}}},
		{"a Write that has waited loses its bytes", "everything-arrives", Any, faults{write: func(s *badStream, b []byte) (n int, err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.mark.Load() {
				return len(b), nil
			}
			if waited(func() { n, err = s.Stream.Write(b) }) {
				s.mark.Store(true)
			}
			return n, err
		}}},

		{"the reason is lost", "close-reaches", Any, faults{closeConn: func(c *badConn, code transport.Code, reason string) error {
			return c.Conn.CloseWithError(code, "")
		}}},
		{"the code is lost", "close-reaches", Any, faults{closeConn: func(c *badConn, code transport.Code, reason string) error {
			return c.Conn.CloseWithError(code&0xff, reason)
		}}},
		{"a blocked write hides the close", "close-blocked-writes", Any, faults{write: func(s *badStream, b []byte) (n int, err error) {
			if waited(func() { n, err = s.Stream.Write(b) }) && err != nil {
				err = &transport.LostError{Err: err}
			}
			return n, mapped(err, func(e *transport.LostError) error { return &transport.LostError{Err: errPlain} })
		}}},
		{"unread bytes hide the close", "close-unread", Any, faults{closeConn: func(c *badConn, code transport.Code, reason string) error {
			return c.Conn.CloseWithError(transport.CodeInternal, "")
		}}},
		{"a connection without streams is closed without a word", "close-unused", Any, faults{closeConn: func(c *badConn, code transport.Code, reason string) error {
			if c.n.Load() == 0 {
				code = 0
			}
			return c.Conn.CloseWithError(code, reason)
		}}},
		{"our close looks like the peer's", "close-is-local", Any, faults{acceptS: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			s, err := c.Conn.AcceptStream(ctx)
			return s, mapped(err, func(e *transport.CloseError) error {
				return &transport.CloseError{Code: e.Code, Reason: e.Reason, Remote: true}
			})
		}}},
		{"an OpenStream that waits does not hear why", "open-blocked-ends", Any, faults{open: func(c *badConn, ctx context.Context) (s transport.Stream, err error) {
			if waited(func() { s, err = c.Conn.OpenStream(ctx) }) && ctx.Err() == nil && err != nil {
				err = net.ErrClosed
			}
			return s, err
		}}},
		{"a reason is cut in the middle of a rune", "reason-cut", Any, faults{closeConn: func(c *badConn, code transport.Code, reason string) error {
			if len(reason) > transport.MaxReason {
				reason = reason[:transport.MaxReason-1]
			}
			return c.Conn.CloseWithError(code, reason)
		}}},
		{"closing again fails", "close-again", Any, faults{closeConn: func(c *badConn, code transport.Code, reason string) error {
			if c.ended.Swap(true) {
				return net.ErrClosed
			}
			return c.Conn.CloseWithError(code, reason)
		}}},
		{"closing what the peer has closed fails", "close-together", Any, faults{closeConn: func(c *badConn, code transport.Code, reason string) error {
			if c.Conn.Context().Err() != nil {
				return net.ErrClosed
			}
			return c.Conn.CloseWithError(code, reason)
		}}},
		{"streams of a connection that is closed under them just end", "close-races", Any, faults{read: onRead(func(s *badStream, err error) error {
			return mapped(err, func(*transport.CloseError) error { return io.EOF })
		})}},
		{"a reset connection is the end of the stream", "cut-by-reset", OverTCP, faults{read: lostIsEOF}},
		{"a connection that ends is the end of the stream", "cut-by-fin", OverTCP, faults{read: lostIsEOF}},
		{"silence is the end of the stream", "cut-silently", OverUDP, faults{read: lostIsEOF}},
		{"a process that died is the end of the stream", "process-killed", OverTCP, faults{read: lostIsEOF}},
		{"the Context does not say why", "cause-is-error", Any, faults{context: plainContext}},
		{"the Context does not say why it was lost", "cause-of-loss", OverTCP, faults{context: plainContext}},
		{"the end of the one stream has another code", "one-stream-ends", OneStream, faults{closeBoth: func(s *badStream) error {
			s.Stream.Close()
			return s.c.Conn.CloseWithError(1, "")
		}}},
		{"CloseWrite ends the connection", "one-stream-lives", OneStream, faults{closeWrite: func(s *badStream) error {
			return s.c.Conn.CloseWithError(0, "")
		}}},
		{"CloseWithError waits for the peer", "close-soon-full", Any, faults{closeConn: func(c *badConn, code transport.Code, reason string) error {
			<-c.Conn.Context().Done()
			return nil
		}}},
		{"CloseWithError waits for the peer's answer", "close-soon-dead", OverTCP, faults{closeConn: func(c *badConn, code transport.Code, reason string) error {
			<-c.Conn.Context().Done()
			return nil
		}}},

		{"a closed transport leaves its connections", "nothing-remains", Any, faults{closeAll: func(t *badTransport) error {
			if t.n.Add(1) == 1 {
				return nil
			}
			return t.Transport.Close()
		}}},
		{"each stream leaves a goroutine until the transport is closed", "ends-leave-nothing", Any, faults{open: func(c *badConn, ctx context.Context) (transport.Stream, error) {
			c.t.spawnUntilClosed()
			return c.Conn.OpenStream(ctx)
		}, closeAll: func(t *badTransport) error {
			t.release()
			return t.Transport.Close()
		}}},
		{"resets are printed", "nothing-printed", Any, faults{reset: func(s *badStream, code transport.Code) error {
			fmt.Fprintln(os.Stderr, "reset")
			return s.Stream.Reset(code)
		}}},

		{"datagrams come twice", "datagrams-whole", Datagrams, faults{send: func(c datagramConn, b []byte) error {
			if err := c.d.SendDatagram(b); err != nil {
				return err
			}
			return c.d.SendDatagram(b)
		}}},
		{"datagrams are cut", "datagrams-whole", Datagrams, faults{send: func(c datagramConn, b []byte) error {
			return c.d.SendDatagram(b[:min(len(b), 300)])
		}}},
		{"datagrams that are too large vanish", "datagram-too-large", Datagrams, faults{send: func(c datagramConn, b []byte) error {
			c.d.SendDatagram(b)
			return nil
		}}},
		{"ReceiveDatagram does not look at its context", "datagram-ends", Datagrams, faults{receive: func(c datagramConn, ctx context.Context) ([]byte, error) {
			return c.d.ReceiveDatagram(context.WithoutCancel(ctx))
		}}},
	}
}
