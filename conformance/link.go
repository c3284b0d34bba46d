package conformance

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// node is a peer: a key and a transport, closed after the check.
type node struct {
	id identity.ID
	transport.Transport
}

// key makes a key.
func (e *env) key() identity.Key {
	key, err := identity.Generate()
	e.must(err, "identity.Generate")
	return key
}

// node makes a peer with a key of its own.
func (e *env) node() *node { return e.nodeOf(e.key()) }

func (e *env) nodeOf(key identity.Key) *node { return e.nodeBy(key, e.h.New) }

func (e *env) nodeBy(key identity.Key, make func(identity.Key) (transport.Transport, error)) *node {
	tr, err := make(key)
	e.must(err, "New")
	e.cleanup(func() {
		if err := tr.Close(); err != nil {
			e.errorf("Transport.Close: want success, got %v", err)
		}
	})
	return &node{key.ID(), tr}
}

// listen makes n listen where the harness says.
func (e *env) listen(n *node) transport.Listener { return e.listenAt(n, e.h.Listen) }

func (e *env) listenAt(n *node, addr transport.Addr) transport.Listener {
	ln, err := n.Listen(e.ctx, addr)
	e.must(err, "Listen(%s)", addr)
	return ln
}

// connect has n dial ln and returns both ends. Nothing else may dial ln meanwhile.
func (e *env) connect(n *node, ln transport.Listener) (dialer, acceptor transport.Conn) {
	return e.connectAt(n, ln, ln.Addr())
}

// connectAt is connect by way of another address than the listener's own.
func (e *env) connectAt(n *node, ln transport.Listener, addr transport.Addr) (dialer, acceptor transport.Conn) {
	accept := e.start("Accept", func() (err error) {
		acceptor, err = ln.Accept(e.ctx)
		return err
	})
	var err error
	dial := e.start("Dial", func() error {
		dialer, err = n.Dial(e.ctx, addr)
		return err
	})
	e.must(dial.wait(), "Dial(%s)", addr)
	e.must(accept.wait(), "Accept")
	return dialer, acceptor
}

// link is two peers and a connection between them.
type link struct {
	*env
	dialer, acceptor *node
	ln               transport.Listener
	d, a             transport.Conn // the dialling and the accepting end
}

// link makes two peers and connects them.
func (e *env) link() *link {
	l := &link{env: e, dialer: e.node(), acceptor: e.node()}
	l.ln = e.listen(l.acceptor)
	l.redial()
	return l
}

// redial makes another connection.
func (l *link) redial() { l.d, l.a = l.connect(l.dialer, l.ln) }

// prelude is the byte that makes a new stream visible to the acceptor.
const prelude = 0xa5

// stream opens a stream on from and accepts it on to.
func (e *env) stream(from, to transport.Conn) (opened, accepted transport.Stream) {
	opened, err := from.OpenStream(e.ctx)
	e.must(err, "OpenStream")
	e.send(opened, []byte{prelude})
	accept := e.start("AcceptStream", func() (err error) {
		accepted, err = to.AcceptStream(e.ctx)
		return err
	})
	e.must(accept.wait(), "AcceptStream, after the peer has opened a stream and written a byte")
	e.expect(accepted, []byte{prelude})
	return opened, accepted
}

// pipe is a stream of which x is the end that a rule acts on and y the other.
type pipe struct {
	x, y   transport.Stream
	xc, yc transport.Conn // their connections
}

// pipe opens a stream by the dialling side of a new link and returns it with the dialling end first.
func (e *env) pipe() *pipe {
	l := e.link()
	x, y := e.stream(l.d, l.a)
	return &pipe{x, y, l.d, l.a}
}

// eachPipe calls f with a stream of every kind, each on a connection of its own: opened by the dialling or the accepting
// side, and with either end first.
func (e *env) eachPipe(f func(p *pipe)) {
	e.eachPipeN(1, func(ps []*pipe) { f(ps[0]) })
}

// eachPipeN is eachPipe with n streams of the kind at a time: on one connection, or on one each with OneStream.
func (e *env) eachPipeN(n int, f func(ps []*pipe)) {
	l := e.pipeLink()
	for _, k := range e.pipeKinds() {
		e.in("%s", k.name)
		ps := e.pipes(l, k, n)
		f(ps)
		for _, p := range ps {
			e.promptly("CloseWithError", func() error { return p.xc.CloseWithError(transport.CodeNone, "") })
		}
		l.d = nil
	}
	e.in("")
}

// pipeKind is a way to look at a stream.
type pipeKind struct {
	name                string
	byAcceptor, reverse bool
}

func (e *env) pipeKinds() []pipeKind {
	kinds := []pipeKind{
		{"stream opened by the dialling side, seen from there", false, false},
		{"stream opened by the dialling side, seen from the accepting one", false, true},
		{"stream opened by the accepting side, seen from there", true, false},
		{"stream opened by the accepting side, seen from the dialling one", true, true},
	}
	if e.traits.OneStream {
		kinds = kinds[:2]
	}
	return kinds
}

// pipeLink returns a link for pipes, which is not dialled yet.
func (e *env) pipeLink() *link {
	l := &link{env: e, dialer: e.node(), acceptor: e.node()}
	l.ln = e.listen(l.acceptor)
	return l
}

// pipes opens n streams of a kind on a link, which it dials if it has no connection.
func (e *env) pipes(l *link, k pipeKind, n int) []*pipe {
	var ps []*pipe
	for range n {
		if l.d == nil || e.traits.OneStream {
			l.redial()
		}
		p := &pipe{xc: l.d, yc: l.a}
		if k.byAcceptor {
			p.xc, p.yc = p.yc, p.xc
		}
		p.x, p.y = e.stream(p.xc, p.yc)
		if k.reverse {
			p.x, p.y, p.xc, p.yc = p.y, p.x, p.yc, p.xc
		}
		ps = append(ps, p)
	}
	return ps
}

// send writes all of b, or ends the check.
func (e *env) send(s transport.Stream, b []byte) {
	n, err := s.Write(b)
	if err != nil || n != len(b) {
		e.failf("Write of %d bytes: want success, got %d and %s", len(b), n, describe(err))
	}
}

// expect reads len(want) bytes and compares, or ends the check.
func (e *env) expect(s transport.Stream, want []byte) {
	got := make([]byte, len(want))
	n, err := io.ReadFull(s, got)
	if err != nil {
		e.failf("reading %d bytes: want success, got %d and %s", len(want), n, describe(err))
	}
	if !bytes.Equal(got, want) {
		e.failf("reading %d bytes: want %.40q, got %.40q", len(want), want, got)
	}
}

// expectEOF reads until the end of s, which must come at once.
func (e *env) expectEOF(s transport.Stream) {
	for range 3 {
		if n, err := s.Read(make([]byte, 16)); n != 0 || err != io.EOF {
			e.failf("Read at the end: want 0 and io.EOF, again and again; got %d and %s", n, describe(err))
		}
	}
}

// exchange sends a few bytes each way to see that a stream works.
func (e *env) exchange(x, y transport.Stream) {
	there, back := token(), token()
	e.send(x, there)
	e.expect(y, there)
	e.send(y, back)
	e.expect(x, back)
}

// token returns 16 bytes that nobody else has.
func token() []byte {
	b := make([]byte, 0, 16)
	for range 16 {
		b = append(b, byte(rand.Uint32()))
	}
	return b
}

// source is an endless flow of bytes that its seed determines.
func source(seed uint64) *rand.ChaCha8 {
	var s [32]byte
	for i := range 8 {
		s[i] = byte(seed >> (8 * i))
	}
	return rand.NewChaCha8(s)
}

// pour writes n bytes of source(seed), in writes of the size given (zero: sizes that vary), and returns how many Write
// took and its error.
func pour(w io.Writer, seed uint64, n int64, size int) (int64, error) {
	src := source(seed)
	sizes := rand.New(rand.NewPCG(seed, 1))
	buf := make([]byte, max(size, 128<<10))
	var sent int64
	for sent < n {
		k := int64(size)
		if size == 0 {
			k = 1 + sizes.Int64N(int64(1)<<sizes.IntN(18))
		}
		b := buf[:min(k, n-sent)]
		src.Read(b)
		m, err := w.Write(b)
		sent += int64(m)
		if err != nil {
			return sent, err
		}
		if m != len(b) {
			return sent, io.ErrShortWrite
		}
	}
	return sent, nil
}

// errChanged means that bytes arrived other than they were sent.
var errChanged = errors.New("bytes differ from those that were written")

// check is a writer that compares what it is given with source(seed).
type check struct {
	src  *rand.ChaCha8
	n    int64
	want []byte
}

func newCheck(seed uint64) *check { return &check{src: source(seed)} }

func (c *check) Write(b []byte) (int, error) {
	if len(c.want) < len(b) {
		c.want = make([]byte, len(b))
	}
	want := c.want[:len(b)]
	c.src.Read(want)
	if !bytes.Equal(b, want) {
		for i := range b {
			if b[i] != want[i] {
				return i, &changedError{c.n + int64(i)}
			}
		}
	}
	c.n += int64(len(b))
	return len(b), nil
}

// drain reads until an error, comparing with source(seed), and returns how many bytes came and why they ended; the end
// is nil after io.EOF. It stops at limit bytes.
func drain(r io.Reader, seed uint64, limit int64) (int64, error) {
	c := newCheck(seed)
	_, err := io.CopyBuffer(struct{ io.Writer }{c}, io.LimitReader(r, limit), make([]byte, 64<<10))
	return c.n, err
}

// flood is a goroutine that writes until it cannot.
type flood struct {
	*call
	n atomic.Int64 // bytes that Write took
}

// maxUnderWay bounds what a writer may have under way while nobody reads: FL1.
const maxUnderWay = 16 << 20

var errNotBlocked = errors.New("Write never blocked")

// flood writes source(seed) to s until Write fails or far more was taken than may be under way.
func (e *env) flood(s transport.Stream, seed uint64) *flood {
	f := new(flood)
	f.call = e.start("Write, blocked because nobody reads", func() error {
		src := source(seed)
		b := make([]byte, 32<<10)
		for f.n.Load() < 2*maxUnderWay {
			src.Read(b)
			n, err := s.Write(b)
			f.n.Add(int64(n))
			if err != nil {
				return err
			}
		}
		return errNotBlocked
	})
	return f
}

// stall waits until the flood makes no progress any more.
func (f *flood) stall() {
	for last, still := int64(-1), 0; still < 3; {
		select {
		case <-f.done:
			if f.err == errNotBlocked {
				f.e.failf("with nobody reading: want Write to block within %d bytes, took %d", int64(maxUnderWay), f.n.Load())
			}
			f.e.failf("with nobody reading: want Write to block, got %s after %d bytes", describe(f.err), f.n.Load())
		case <-time.After(moment):
		}
		if n := f.n.Load(); n == last {
			still++
		} else {
			last, still = n, 0
		}
	}
}

// after returns a context that ends after d, or with the check.
func (e *env) after(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(e.ctx, d)
	e.cleanup(cancel)
	return ctx
}

// cancelled returns a context that has ended.
func (e *env) cancelled() context.Context {
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	return ctx
}

// accept accepts a connection soon, or ends the check.
func (e *env) accept(ln transport.Listener) (c transport.Conn) {
	e.must(e.promptly("Accept", func() (err error) {
		c, err = ln.Accept(e.ctx)
		return err
	}), "Accept")
	return c
}

// dial dials soon, or ends the check.
func (e *env) dial(n *node, addr transport.Addr) (c transport.Conn) {
	e.must(e.promptly("Dial", func() (err error) {
		c, err = n.Dial(e.ctx, addr)
		return err
	}), "Dial(%s)", addr)
	return c
}
