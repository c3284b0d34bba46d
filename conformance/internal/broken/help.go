package broken

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Blockchain-CN/pheromones/transport"
)

// moment is how long a call may take before it counts as one that has waited.
const moment = 10 * time.Millisecond

var errPlain = errors.New("something is wrong")

// mapped gives err a look of its own if it is as it should be.
func mapped[T error](err error, to func(T) error) error {
	var e T
	if errors.As(err, &e) {
		return to(e)
	}
	return err
}

// onRead and onWrite change the errors of Read and Write.
func onRead(to func(s *badStream, err error) error) func(*badStream, []byte) (int, error) {
	return func(s *badStream, b []byte) (int, error) {
		n, err := s.Stream.Read(b)
		if err != nil {
			err = to(s, err)
		}
		return n, err
	}
}

func onWrite(to func(s *badStream, err error) error) func(*badStream, []byte) (int, error) {
	return func(s *badStream, b []byte) (int, error) {
		n, err := s.Stream.Write(b)
		if err != nil {
			err = to(s, err)
		}
		return n, err
	}
}

// waited runs f and reports whether it took so long that it must have waited.
func waited(f func()) bool {
	began := time.Now()
	f()
	return time.Since(began) > moment
}

// dropping is an AcceptStream or Accept that takes a result off the queue in a goroutine and drops it if the context ends.
func dropping[T any](ctx context.Context, get func(context.Context) (T, error)) (T, error) {
	if err := ctx.Err(); err != nil {
		var none T
		return none, err
	}
	type result struct {
		v   T
		err error
	}
	got := make(chan result, 1)
	go func() {
		v, err := get(context.WithoutCancel(ctx))
		got <- result{v, err}
	}()
	select {
	case r := <-got:
		return r.v, r.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

func flip(b []byte, at, from int64) {
	if i := at - from; i >= 0 && i < int64(len(b)) {
		b[i] ^= 1
	}
}

// swallow is a Write that keeps whatever it is given for later.
func swallow(s *badStream, b []byte) (int, error) {
	b = bytes.Clone(b)
	go s.Stream.Write(b)
	return len(b), nil
}

func lostIsEOF(s *badStream, b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	if errors.Is(err, transport.ErrLost) {
		err = io.EOF
	}
	return n, err
}

func plainContext(c *badConn) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	context.AfterFunc(c.Conn.Context(), cancel)
	return ctx
}

// spawnUntilClosed starts a goroutine that stays until release.
func (t *badTransport) spawnUntilClosed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.idle == nil {
		t.idle = make(chan struct{})
	}
	go func(idle chan struct{}) { <-idle }(t.idle)
}

func (t *badTransport) release() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.idle != nil {
		close(t.idle)
		t.idle = nil
	}
}

// frontListen returns a Listen that puts a TCP listener before the transport's, which waits for what connections have to
// say, for so many of them at once.
func frontListen(places int) func(*badTransport, context.Context, transport.Addr) (transport.Listener, error) {
	return func(t *badTransport, ctx context.Context, addr transport.Addr) (transport.Listener, error) {
		ln, err := t.Transport.Listen(ctx, addr)
		if err != nil {
			return nil, err
		}
		raw, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		f := &front{Listener: ln, raw: raw, places: make(chan struct{}, places), closed: make(chan struct{})}
		t.ln = f
		f.all.Go(f.serve)
		return f, nil
	}
}

func (f *front) serve() {
	for {
		near, err := f.raw.Accept()
		if err != nil {
			return
		}
		f.hold(near)
		select {
		case f.places <- struct{}{}:
		case <-f.closed:
			return
		}
		f.all.Go(func() {
			b := make([]byte, 4<<10)
			n, err := near.Read(b)
			if bytes.Contains(b[:n], []byte("\x02h2")) {
				f.odd.Store(true)
			}
			<-f.places
			if err != nil {
				near.Close()
				return
			}
			far, err := net.Dial("tcp", f.Listener.Addr().HostPort)
			if err != nil {
				near.Close()
				return
			}
			f.hold(far)
			far.Write(b[:n])
			f.all.Go(func() { io.Copy(near, far); near.Close() })
			io.Copy(far, near)
			far.Close()
		})
	}
}

type front struct {
	transport.Listener
	raw  net.Listener
	all  sync.WaitGroup
	mu   sync.Mutex
	held []net.Conn

	odd    atomic.Bool // somebody has offered h2
	places chan struct{}
	once   sync.Once
	closed chan struct{} // closed by Close
}

func (f *front) hold(c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = append(f.held, c)
}

func frontAddr(l *badListener) transport.Addr {
	a := l.Listener.Addr()
	if f, ok := l.Listener.(*front); ok {
		a.HostPort = f.raw.Addr().String()
	}
	return a
}

func closeFront(t *badTransport) error {
	if t.ln != nil {
		t.ln.Close()
	}
	err := t.Transport.Close()
	if t.ln != nil {
		t.ln.(*front).all.Wait()
	}
	return err
}

func (f *front) Close() error {
	f.once.Do(func() { close(f.closed) })
	err := f.Listener.Close()
	f.raw.Close()
	f.mu.Lock()
	for _, c := range f.held {
		c.Close()
	}
	f.mu.Unlock()
	return err
}
