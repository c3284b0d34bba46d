package quic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	quicgo "github.com/quic-go/quic-go"

	"github.com/Blockchain-CN/pheromones/transport"
)

func TestConnError(t *testing.T) {
	long := strings.Repeat("x", transport.MaxReason-1) + "é"
	for _, tt := range []struct {
		name string
		err  error
		want transport.CloseError
	}{
		{"local", &quicgo.ApplicationError{ErrorCode: 7, ErrorMessage: "why"}, transport.CloseError{Code: 7, Reason: "why"}},
		{"remote", &quicgo.ApplicationError{ErrorCode: 0, Remote: true}, transport.CloseError{Remote: true}},
		{"largest code", &quicgo.ApplicationError{ErrorCode: math.MaxUint32, Remote: true},
			transport.CloseError{Code: math.MaxUint32, Remote: true}},
		{"code too large", &quicgo.ApplicationError{ErrorCode: math.MaxUint32 + 1, Remote: true},
			transport.CloseError{Code: transport.CodeProtocol, Remote: true}},
		{"long reason", &quicgo.ApplicationError{ErrorMessage: long, Remote: true},
			transport.CloseError{Reason: long[:transport.MaxReason-1], Remote: true}},
		{"refused", &quicgo.TransportError{ErrorCode: quicgo.ConnectionRefused, Remote: true},
			transport.CloseError{Code: transport.CodeRefused, Remote: true}},
	} {
		t.Run(tt.name, func(t *testing.T) { wantClose(t, connError(tt.err), tt.want) })
	}
	for _, tt := range []struct {
		err     error
		timeout bool
	}{
		{&quicgo.IdleTimeoutError{}, true},
		{&quicgo.StatelessResetError{}, false},
		{&quicgo.TransportError{ErrorCode: quicgo.ProtocolViolation}, false},
		{&quicgo.TransportError{ErrorCode: quicgo.InternalError, Remote: true}, false},
		{errors.New("something"), false},
	} {
		got := connError(tt.err)
		var lost *transport.LostError
		if !errors.As(got, &lost) || lost.Timeout() != tt.timeout || errors.Is(got, net.ErrClosed) || errors.Is(got, io.EOF) {
			t.Errorf("%T became %v, want a LostError with Timeout %v that is not net.ErrClosed", tt.err, got, tt.timeout)
		}
		if !errors.Is(got, tt.err) {
			t.Errorf("%v does not wrap %v", got, tt.err)
		}
	}
	var tr *quicgo.TransportError
	if !errors.As(connError(&quicgo.TransportError{ErrorCode: 1}), &tr) {
		t.Error("errors.As does not find what a LostError wraps")
	}
}

func TestCut(t *testing.T) {
	for n := range 8 {
		s := strings.Repeat("x", transport.MaxReason-n) + "世世世"
		got := cut(s)
		if want := transport.MaxReason - n + n/3*3; len(got) != want || !strings.HasPrefix(s, got) {
			t.Errorf("%d bytes before the runes: cut to %d, want %d", transport.MaxReason-n, len(got), want)
		}
	}
	if got := cut(strings.Repeat("\x80", 2*transport.MaxReason)); len(got) > transport.MaxReason {
		t.Errorf("cut what is not UTF-8 to %d bytes", len(got))
	}
}

// TestCloseAtOnce closes connections before anything was said on them.
func TestCloseAtOnce(t *testing.T) {
	l := newListener(t, newTransport(t, newKey(t), nil), "127.0.0.1:0")
	tr := newTransport(t, newKey(t), nil)
	for i := range 30 {
		c := dial(t, tr, l.Addr())
		reason := fmt.Sprint("no. ", i)
		c.CloseWithError(transport.CodeUser, reason)
		wantClose(t, await(t, accept(t, l)), transport.CloseError{Code: transport.CodeUser, Reason: reason, Remote: true})
		wantClose(t, await(t, c), transport.CloseError{Code: transport.CodeUser, Reason: reason})

		c = dial(t, tr, l.Addr())
		accept(t, l).CloseWithError(transport.CodeNone, reason)
		wantClose(t, await(t, c), transport.CloseError{Reason: reason, Remote: true})
	}
	if n := len(conns(tr)); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

func TestIdle(t *testing.T) {
	dialled, accepted := pair(t, &Config{IdleTimeout: 200 * time.Millisecond, KeepAlive: -1})
	for _, c := range []*Conn{dialled, accepted} {
		err := await(t, c)
		var lost *transport.LostError
		if !errors.As(err, &lost) || !lost.Timeout() {
			t.Errorf("ended with %v, want a LostError with Timeout", err)
		}
		if _, again := c.OpenStream(newContext(t)); !errors.Is(again, err) {
			t.Errorf("OpenStream: %v, want %v", again, err)
		}
	}
}

func TestKeepAlive(t *testing.T) {
	dialled, accepted := pair(t, &Config{KeepAlive: 20 * time.Millisecond})
	exchange(t, accepted, dialled)
	// Nobody says anything any more.
	before := accepted.quic.ConnectionStats().PacketsReceived
	for ctx := newContext(t); accepted.quic.ConnectionStats().PacketsReceived < before+20; time.Sleep(time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatal("nothing keeps the connection alive")
		}
	}
}

// TestRestart lets a peer die without a word and come back.
func TestRestart(t *testing.T) {
	key := newKey(t)
	old := newTransport(t, key, nil)
	l := newListener(t, old, "127.0.0.1:0")
	c := dial(t, newTransport(t, newKey(t), nil), l.Addr())
	exchange(t, c, accept(t, l))
	l.socket.close()
	l.Close()

	newListener(t, newTransport(t, key, nil), l.Addr().HostPort)
	s, err := c.OpenStream(newContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	var reset *quicgo.StatelessResetError
	if err := await(t, c); !errors.Is(err, transport.ErrLost) || !errors.As(err, &reset) {
		t.Errorf("ended with %v, want a stateless reset", err)
	}
}

func TestDatagrams(t *testing.T) {
	dialled, accepted := pair(t, nil)
	ctx := newContext(t)
	if err := dialled.SendDatagram([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if got, err := accepted.ReceiveDatagram(ctx); err != nil || string(got) != "hello" {
		t.Errorf("received %q, %v", got, err)
	}
	if err := dialled.SendDatagram(make([]byte, 1<<16)); err == nil || !strings.Contains(err.Error(), "65536") {
		t.Errorf("a datagram that is too large: %v", err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := accepted.ReceiveDatagram(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("ReceiveDatagram: %v, want %v", err, context.Canceled)
	}
	dialled.CloseWithError(transport.CodeUser, "bye")
	want := transport.CloseError{Code: transport.CodeUser, Reason: "bye", Remote: true}
	if _, err := accepted.ReceiveDatagram(ctx); err == nil {
		t.Error("received a datagram that nobody sent")
	} else {
		wantClose(t, err, want)
	}
	wantClose(t, accepted.SendDatagram([]byte("hello")), want)
}

func TestResumption(t *testing.T) {
	key := newKey(t)
	server := newTransport(t, key, nil)
	l := newListener(t, server, "127.0.0.1:0")
	client := newTransport(t, newKey(t), nil)
	connect := func(l *Listener, peer bool, want bool) {
		t.Helper()
		addr := l.Addr()
		if !peer {
			addr.Peer = [32]byte{}
		}
		c := dial(t, client, addr)
		a := accept(t, l)
		if c.Info().Resumed != want || a.Info().Resumed != want {
			t.Errorf("resumed: %v and %v, want %v", c.Info().Resumed, a.Info().Resumed, want)
		}
		if c.Info().RemotePeer != l.Addr().Peer || a.Info().RemotePeer != client.id {
			t.Errorf("the peers are %v and %v", c.Info().RemotePeer, a.Info().RemotePeer)
		}
		exchange(t, a, c) // the session is here when this is
		c.CloseWithError(transport.CodeNone, "")
	}
	connect(l, true, false)
	connect(l, true, true)
	connect(l, false, false) // who is there is not known, so nothing is shown
	connect(l, true, true)
	// The session of another listener of the same peer is not mistaken for this one's.
	connect(newListener(t, server, "127.0.0.1:0"), true, false)
	// Another peer takes the address over.
	server.Close() // which frees it, as l.Close does when the last connection has ended
	other := newListener(t, newTransport(t, newKey(t), nil), l.Addr().HostPort)
	connect(other, true, false)
	connect(other, true, true)
}

func TestCloseWriteEndsBlockedWrite(t *testing.T) {
	for _, end := range []string{"CloseWrite", "Close"} {
		t.Run(end, func(t *testing.T) {
			dialled, accepted := pair(t, nil)
			ctx := newContext(t)
			a, err := dialled.OpenStream(ctx)
			if err != nil {
				t.Fatal(err)
			}
			type result struct {
				n   int
				err error
			}
			data := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
			wrote := make(chan result)
			go func() {
				n, err := a.Write(data)
				wrote <- result{n, err}
			}()
			b, err := accepted.AcceptStream(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(b, make([]byte, 16)); err != nil { // it is under way
				t.Fatal(err)
			}
			if end == "Close" {
				err = a.Close()
			} else {
				err = a.CloseWrite()
			}
			if err != nil {
				t.Fatal(err)
			}
			r := <-wrote
			if !errors.Is(r.err, net.ErrClosed) || r.n >= len(data) {
				t.Errorf("Write: %d of %d bytes, %v; want fewer and net.ErrClosed", r.n, len(data), r.err)
			}
			got, err := io.ReadAll(b)
			if err != nil || len(got)+16 != r.n || !bytes.Equal(got, data[16:r.n]) {
				t.Errorf("the peer read %d bytes, %v; want the %d that were written", len(got)+16, err, r.n)
			}
			if err := a.SetWriteDeadline(time.Time{}); (err != nil) != (end == "Close") {
				t.Errorf("SetWriteDeadline: %v", err)
			}
			if _, err := a.Write(data); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Write: %v, want net.ErrClosed", err)
			}
		})
	}
}

func TestPastDeadlines(t *testing.T) {
	dialled, _ := pair(t, nil)
	s, err := dialled.OpenStream(newContext(t))
	if err != nil {
		t.Fatal(err)
	}
	s.SetDeadline(time.Now().Add(-time.Second))
	for _, call := range []func([]byte) (int, error){s.Read, s.Write} {
		if _, err := call([]byte("x")); err != os.ErrDeadlineExceeded {
			t.Errorf("got %v, want %v", err, os.ErrDeadlineExceeded)
		}
	}
	s.SetDeadline(time.Time{})
	if _, err := s.Write([]byte("x")); err != nil {
		t.Error(err)
	}
}

// TestStalledStreams opens many streams that nobody reads; one that is read must go on.
func TestStalledStreams(t *testing.T) {
	dialled, accepted := pair(t, nil)
	ctx := newContext(t)
	for range 20 {
		s, err := dialled.OpenStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		s.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := s.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Write to a stream that nobody reads: %v", err)
		}
		if _, err := accepted.AcceptStream(ctx); err != nil {
			t.Fatal(err)
		}
	}
	exchange(t, dialled, accepted)
}
