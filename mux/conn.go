package mux

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/Blockchain-CN/pheromones/internal/outq"
	"github.com/Blockchain-CN/pheromones/internal/tlsnet"
	"github.com/Blockchain-CN/pheromones/transport"
)

// conn is a [transport.Conn]: a yamux session and the shim beneath it.
type conn struct {
	tlsnet.Link
	cfg     *Config
	ended   func(*conn)
	log     lastError
	done    chan struct{} // closed when everything of the connection has ended
	tickets chan struct{} // one for each stream that yamux has for AcceptStream; never closed
	taking  sync.Mutex    // held while a stream is taken from yamux
	pings   sync.WaitGroup

	mu       sync.Mutex
	session  *yamux.Session     // set by newConn, and not changed
	next     *time.Timer        // the next ping; nil if there are none
	finished bool               // there are no more pings
	over     bool               // fail was called
	streams  map[uint32]*stream // those that have not ended in both directions or not been accepted
	opened   int                // of streams, ours; and those to come
	accepted int                // of streams, the peer's
	waiting  int                // of accepted: still in yamux's backlog
	unacked  int                // of opened: not yet accepted by the peer
	limit    int                // how many of ours the peer admits
	room     chan struct{}      // closed, and replaced, when opened or unacked falls; nil while nobody waits
}

func newConn(raw *tls.Conn, info transport.Info, pool *outq.Pool, cfg *Config, ended func(*conn)) *conn {
	c := &conn{
		cfg: cfg, ended: ended, done: make(chan struct{}),
		tickets: make(chan struct{}, backlog), streams: make(map[uint32]*stream), limit: defaultStreams,
	}
	c.Init(raw, info, pool, closeFrame, c.fail)
	if n := cfg.maxStreams(); n != defaultStreams {
		c.Out.Append(settingsFrame(n))
	}
	y := yamux.DefaultConfig()
	y.AcceptBacklog = backlog + 1 // one beyond our own bound, so that yamux never has to enforce its
	y.MaxStreamWindowSize = cfg.window()
	y.ConnectionWriteTimeout = cfg.answerTimeout()
	y.EnableKeepAlive = false // it would take a goroutine
	y.StreamCloseTimeout = 0  // a stream may stay half-closed for as long as it likes
	y.StreamOpenTimeout = 0   // and a peer may take its time to accept
	y.LogOutput, y.Logger = nil, &c.log
	start := yamux.Server
	if info.Dialer {
		start = yamux.Client
	}
	c.mu.Lock()
	defer c.mu.Unlock()                              // the session's goroutines run, and use c, before we have the session
	c.session, _ = start(&shim{c: c, pool: pool}, y) // it fails only for a wrong configuration
	if d := cfg.keepAlive(); d > 0 {
		c.next = time.AfterFunc(d, c.ping)
	}
	return c
}

// ping tries the connection, and ends it if the peer does not answer.
func (c *conn) ping() {
	c.mu.Lock()
	if c.finished {
		c.mu.Unlock()
		return
	}
	c.pings.Add(1)
	c.mu.Unlock()
	defer c.pings.Done()
	if _, err := c.session.Ping(); err != nil {
		c.log.text.Store(nil)
		c.session.Close() // sessionEnded takes it from there
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.finished {
		c.next.Reset(c.cfg.keepAlive())
	}
}

// lastError is yamux's logger. It keeps the last error, which yamux says nowhere else.
type lastError struct{ text atomic.Pointer[string] }

func (l *lastError) Printf(format string, v ...any) {
	if text, ok := strings.CutPrefix(format, "[ERR] yamux: "); ok {
		text = fmt.Sprintf(text, v...)
		l.text.Store(&text)
	}
}

func (l *lastError) Print(v ...any)   { l.Printf("%s", fmt.Sprint(v...)) }
func (l *lastError) Println(v ...any) { l.Print(v...) }

// Done implements tlsnet.Conn.
func (c *conn) Done() <-chan struct{} { return c.done }

// OpenStream implements [transport.Conn]. The peer sees the stream at once.
func (c *conn) OpenStream(ctx context.Context) (transport.Stream, error) {
	if err := c.admit(ctx); err != nil {
		return nil, err
	}
	y, err := c.session.OpenStream() // does not wait: there is room in its backlog, and the shim does not wait
	if err != nil {
		c.release(func() { c.opened--; c.unacked-- })
		return nil, c.cause(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[y.StreamID()]
	if c.over || s == nil {
		return nil, c.gone()
	}
	s.attach(y)
	c.forget(s)
	return s, nil
}

// opening makes the record of a stream of ours when yamux announces it to the peer, before the peer can answer.
func (c *conn) opening(id uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.streams[id] = newStream(c, id, true)
	}
}

// admit waits until the peer has room for one more of our streams, and takes it.
func (c *conn) admit(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.over, c.Context().Err() != nil:
			return c.gone()
		case c.opened < c.limit && c.unacked < backlog:
			c.opened++
			c.unacked++
			return nil
		}
		if c.room == nil {
			c.room = make(chan struct{})
		}
		room := c.room
		c.mu.Unlock()
		select {
		case <-room:
		case <-c.Context().Done():
		case <-ctx.Done():
			c.mu.Lock()
			return ctx.Err()
		}
		c.mu.Lock()
	}
}

// release changes the counts and lets those who wait for room look again.
func (c *conn) release(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	c.wake()
}

// wake lets those who wait for room look again, with mu held.
func (c *conn) wake() {
	if c.room != nil {
		close(c.room)
		c.room = nil
	}
}

// AcceptStream implements [transport.Conn].
func (c *conn) AcceptStream(ctx context.Context) (transport.Stream, error) {
	if c.Context().Err() != nil {
		return nil, context.Cause(c.Context())
	}
	select {
	case <-c.tickets:
		return c.accept()
	default:
	}
	select {
	case <-c.tickets:
		return c.accept()
	case <-c.Context().Done():
		return nil, context.Cause(c.Context())
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// accept takes the stream that a ticket promises.
func (c *conn) accept() (transport.Stream, error) {
	// One at a time, because the count falls before yamux tells the peer, who may then open the next.
	c.taking.Lock()
	c.release(func() { c.waiting-- })
	y, err := c.session.AcceptStreamWithContext(c.Context())
	c.taking.Unlock()
	if err != nil {
		return nil, c.gone()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[y.StreamID()]
	if c.over || s == nil {
		return nil, c.gone()
	}
	s.attach(y)
	if s.echo != nil {
		c.Out.Append(s.echo)
		s.echo = nil
	}
	c.forget(s)
	return s, nil
}

// forget drops a stream that has ended, with mu held.
func (c *conn) forget(s *stream) {
	if !s.sent || !s.received || s.y == nil || c.streams[s.id] != s {
		return
	}
	delete(c.streams, s.id)
	if s.ours {
		c.opened--
		c.acked(s)
		c.wake()
	} else {
		c.accepted--
	}
}

// acked notes that the peer has a stream of ours, with mu held.
func (c *conn) acked(s *stream) {
	if s.ours && !s.acked {
		s.acked = true
		c.unacked--
		c.wake()
	}
}

// inspect sees a frame from the peer before yamux does, and reports whether yamux is to see it. frame is the whole of it,
// and may be changed.
func (c *conn) inspect(h header, frame []byte) (wanted bool, err error) {
	switch {
	case h.typ == typePing:
		return true, nil
	case h.typ == typeGoAway:
		if h.length != 0 {
			return false, tlsnet.ProtocolError(fmt.Sprintf("the peer's yamux gave up with code %d", h.length))
		}
		return false, nil
	case h.stream == 0:
		return false, c.handle(frame[headerLen:])
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return false, nil
	}
	if h.flags&flagSYN != 0 {
		if ok, err := c.arrive(h.stream); !ok {
			return false, err
		}
	}
	s := c.streams[h.stream]
	if s == nil {
		return false, nil // sent before the peer heard of the stream's end
	}
	if h.flags&flagACK != 0 {
		c.acked(s)
	}
	if h.flags&flagRST != 0 {
		code := transport.CodeNone
		if h.typ == typeWindow {
			code = transport.Code(h.length)
			copy(frame[8:], make([]byte, 4))
		}
		switch {
		case s.reset:
		case !s.ours && s.y == nil:
			s.echo = resetFrame(h.stream, code) // not before it is accepted: until then it holds a place here, and so must it there
		default:
			c.Out.Append(resetFrame(h.stream, code)) // so that the peer's yamux, too, lets go of the stream
		}
		s.receivedReset(code)
		c.acked(s)
		c.forget(s)
		return true, nil
	}
	if h.flags&flagFIN != 0 {
		if s.received {
			return false, nil // after a reset, most likely
		}
		s.received = true
		s.fin.Store(!s.reset)
		c.forget(s)
	}
	if h.typ == typeWindow {
		s.receivedCredit(h.length)
		return h.flags != 0, nil // yamux writes nothing into streams, and need not know how much it could
	}
	return true, nil
}

// arrive makes the record of a stream that the peer opens, with mu held, and reports whether there is one.
func (c *conn) arrive(id uint32) (bool, error) {
	switch {
	case (id%2 == 1) == c.Info().Dialer:
		return false, tlsnet.ProtocolError(fmt.Sprintf("stream %d is not the peer's to open", id))
	case c.streams[id] != nil:
		return false, tlsnet.ProtocolError(fmt.Sprintf("stream %d was opened twice", id))
	}
	// A peer may know that a stream has ended before we have counted it, so the limit on all has some slack.
	if c.accepted >= c.cfg.maxStreams()+backlog || c.waiting >= backlog {
		c.Out.Append(resetFrame(id, transport.CodeLimit))
		return false, nil
	}
	c.accepted++
	c.waiting++
	c.tickets <- struct{}{} // has room for all that wait
	c.streams[id] = newStream(c, id, false)
	return true, nil
}

// handle takes a message to the connection as a whole.
func (c *conn) handle(body []byte) error {
	if len(body) == 0 {
		return nil
	}
	switch body[0] {
	case kindSettings:
		var streams uint32
		if _, err := parseMessage(body, &streams); err != nil {
			return err
		}
		c.release(func() { c.limit = int(min(streams, math.MaxInt32)) })
	case kindStop:
		var id, code uint32
		if _, err := parseMessage(body, &id, &code); err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if s := c.streams[id]; s != nil {
			s.receivedStop(transport.Code(code))
		}
	case kindClose:
		var code uint32
		reason, err := parseMessage(body, &code)
		if err != nil {
			return err
		}
		return &transport.CloseError{Code: transport.Code(code), Reason: transport.CutReason(string(reason)), Remote: true}
	}
	return nil // kinds to come are skipped
}

// fail ends the streams because the connection has ended.
func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	for _, s := range c.streams {
		s.fail(err)
	}
	clear(c.streams)
	c.wake()
}

// gone returns why the connection has ended, which it has or is about to.
func (c *conn) gone() error {
	<-c.Context().Done()
	return context.Cause(c.Context())
}

// cause returns why an operation of yamux failed with err.
func (c *conn) cause(err error) error {
	if errors.Is(err, yamux.ErrStreamsExhausted) {
		return fmt.Errorf("mux: every stream number of the connection was used; dial again: %w", err)
	}
	return c.gone()
}

// sessionEnded is called once, when yamux ends its session: because the shim told it to, because the peer does not answer
// its pings, or because the peer broke its rules.
func (c *conn) sessionEnded() {
	var err error = errSilent
	if text := c.log.text.Load(); text != nil {
		err = errors.New("yamux: " + *text)
	}
	c.EndWith(&transport.LostError{Err: err}, transport.CodeTimeout, err.Error())
	go c.finish()
}

var errSilent = fmt.Errorf("the peer does not answer: %w", os.ErrDeadlineExceeded)

// finish waits for the session's goroutines, and is the last of the connection's.
func (c *conn) finish() {
	c.mu.Lock()
	session := c.session
	c.finished = true
	if c.next != nil {
		c.next.Stop()
	}
	c.mu.Unlock()
	session.Close() // returns when the Close under way has
	c.pings.Wait()
	c.Out.Wait()
	c.Raw.NetConn().Close()
	c.ended(c)
	close(c.done)
}
