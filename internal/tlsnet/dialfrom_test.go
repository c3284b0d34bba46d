package tlsnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// end is one that dials from its port.
type end struct {
	t *Transport
	l *Listener
}

func newEnd(t *testing.T, at string) end {
	t.Helper()
	tr := newRaw(t, newKey(t))
	return end{tr, listen(t, tr, at).(*Listener)}
}

// dialFrom begins to dial, and returns what gives the outcome.
func (e end) dialFrom(ctx context.Context, to transport.Addr, accepts bool) func() (*rawConn, error) {
	type outcome struct {
		c   transport.Conn
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		c, err := e.l.DialFrom(ctx, to, accepts)
		done <- outcome{c, err}
	}()
	return func() (*rawConn, error) {
		o := <-done
		if o.err != nil {
			return nil, o.err
		}
		return o.c.(*rawConn), nil
	}
}

// supported skips the test where the system cannot do it.
func supported(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "linux" {
		return
	}
	e := newEnd(t, "127.0.0.1:0")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := e.l.DialFrom(ctx, transport.Addr{Scheme: "raw", HostPort: "127.0.0.1:1"}, false); errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
}

// TestDialFrom lets two ends dial each other's ports, in both roles, with either of them first, and now and then from every address.
func TestDialFrom(t *testing.T) {
	supported(t)
	both := 0
	for i := range 60 {
		first, second := "127.0.0.1:0", "127.0.0.2:0"
		if i%3 == 2 {
			first = "0.0.0.0:0"
		}
		a, b := newEnd(t, first), newEnd(t, second)
		toA, toB := a.l.Addr(), b.l.Addr()
		_, port, _ := net.SplitHostPort(toA.HostPort)
		toA.HostPort = net.JoinHostPort("127.0.0.1", port)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		accepts := i%2 == 0
		atA := a.dialFrom(ctx, toB, accepts)
		if i%5 == 4 { // they need not begin at once
			pause, cancel := context.WithTimeout(ctx, time.Duration(i)*time.Millisecond)
			<-pause.Done()
			cancel()
		}
		atB := b.dialFrom(ctx, toA, !accepts)
		ca, errA := atA()
		cb, errB := atB()
		// Who was early enough is an ordinary dialler.
		if accepts && errors.Is(errA, errConnected) {
			ca, errA = a.accept(t)
		} else if !accepts && errors.Is(errB, errConnected) {
			cb, errB = b.accept(t)
		} else {
			both++
		}
		if errA != nil || errB != nil {
			t.Fatalf("%d: %v; %v", i, errA, errB)
		}
		if ca.info.Dialer == accepts || cb.info.Dialer != accepts {
			t.Errorf("%d: both count as dialler or as not: %+v, %+v", i, ca.info, cb.info)
		}
		if ca.info.LocalAddr != toA || ca.info.RemoteAddr != toB || cb.info.LocalAddr != toB || cb.info.RemoteAddr != toA {
			t.Errorf("%d: they are at %+v and %+v, want %v and %v", i, ca.info, cb.info, toA, toB)
		}
		if ca.info.RemotePeer != toB.Peer || cb.info.RemotePeer != toA.Peer {
			t.Errorf("%d: they know each other as %v and %v", i, ca.info.RemotePeer, cb.info.RemotePeer)
		}
		go ca.raw.Write([]byte("there"))
		got := make([]byte, 5)
		if _, err := io.ReadFull(cb.raw, got); err != nil || string(got) != "there" {
			t.Errorf("%d: read %q, %v", i, got, err)
		}
		cancel()
		// Nothing has come to Accept, and the port is nobody else's.
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		if c, err := b.l.Accept(ctx); err == nil {
			t.Errorf("%d: %v came to Accept", i, c.Info())
		}
		if l, err := net.Listen("tcp", toA.HostPort); err == nil {
			l.Close()
			t.Errorf("%d: another listener got the port", i)
		}
		a.t.Close()
		b.t.Close()
	}
	if both == 0 {
		t.Error("never did both get the connection by dialling")
	}
}

// accept returns what has come to Accept.
func (e end) accept(t *testing.T) (*rawConn, error) {
	c, err := e.l.Accept(t.Context())
	if err != nil {
		return nil, err
	}
	return c.(*rawConn), nil
}

// expecting waits until so many addresses are being dialled.
func (e end) expecting(n int) {
	for {
		e.l.mu.Lock()
		got := len(e.l.expected)
		e.l.mu.Unlock()
		if got == n {
			return
		}
		runtime.Gosched()
	}
}

// TestDialFromOrdinary: whoever dials from a port is, for a listener that does not, an ordinary dialler.
func TestDialFromOrdinary(t *testing.T) {
	supported(t)
	a, b := newEnd(t, "127.0.0.1:0"), newEnd(t, "127.0.0.2:0")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := a.l.DialFrom(ctx, b.l.Addr(), false)
	if err != nil {
		t.Fatal(err)
	}
	far, err := b.l.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := far.(*rawConn).info.RemoteAddr; got != a.l.Addr() || c.(*rawConn).info.RemoteAddr != b.l.Addr() {
		t.Errorf("it comes from %v, want %v", got, a.l.Addr())
	}
}

func TestDialFromFails(t *testing.T) {
	supported(t)
	a, b := newEnd(t, "127.0.0.1:0"), newEnd(t, "127.0.0.2:0")
	free, err := net.Listen("tcp", "127.0.0.3:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := transport.Addr{Scheme: "raw", HostPort: free.Addr().String()}
	free.Close()
	long, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()

	for _, at := range []string{"localhost:80", "127.0.0.1:0", "0.0.0.0:80", "224.0.0.1:80"} {
		if _, err := a.l.DialFrom(long, transport.Addr{Scheme: "raw", HostPort: at}, false); !errors.Is(err, transport.ErrBadAddr) {
			t.Errorf("%s: %v, want ErrBadAddr", at, err)
		}
	}
	if _, err := a.l.DialFrom(long, a.l.Addr(), false); !errors.Is(err, errItself) {
		t.Errorf("itself: %v", err)
	}

	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = a.l.DialFrom(short, nobody, true)
	var op *transport.OpError
	if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &op) || op.Addr != nobody {
		t.Errorf("nobody there: %v", err)
	}

	// The peer is somebody else: whoever finds out says so at once.
	for _, accepts := range []bool{false, true} {
		ctx, cancel := context.WithCancel(long)
		wrong := b.l.Addr()
		wrong.Peer = newKey(t).ID()
		atA := a.dialFrom(ctx, wrong, accepts)
		a.expecting(1)
		atB := b.dialFrom(ctx, a.l.Addr(), !accepts)
		if _, err := atA(); !errors.Is(err, identity.ErrWrongPeer) {
			t.Errorf("accepts %v: %v, want ErrWrongPeer", accepts, err)
		}
		cancel()
		if c, err := atB(); err == nil && !accepts {
			t.Errorf("the one refused got %v", c.info)
		}
	}

	// One at a time; the listener's end ends it.
	waiting := a.dialFrom(long, nobody, false)
	a.expecting(1)
	if _, err := a.l.DialFrom(long, nobody, false); !errors.Is(err, errTaken) {
		t.Errorf("the second: %v", err)
	}
	a.l.Close()
	if _, err := waiting(); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("after Close: %v, want ErrClosed", err)
	}
	if _, err := a.l.DialFrom(long, nobody, false); !errors.Is(err, transport.ErrClosed) {
		t.Errorf("closed: %v, want ErrClosed", err)
	}
	if n := fmt.Sprint(a.l.expected); n != "map[]" {
		t.Errorf("it still expects %s", n)
	}
}
