package conformance

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// fault is something that is wrong with a node: what it does to the frames and streams of a sound one.
type fault struct {
	name  string
	rules []string // each of which must find it

	request func(peer identity.ID, f []byte) []byte // what the node is given instead of a whole frame
	reply   func(s *faultyStream, f []byte) []byte  // what is sent instead of a frame; nil is nothing
	service func(s *faultyStream, name string) string
	reset   func(transport.Code) transport.Code
	accept  func(s *faultyStream) bool // whether a stream is taken
	dialled func(c transport.Conn, nth int) bool
	short   func(s *faultyStream) // a frame has come in pieces
	eof     func(s *faultyStream) // the peer has ended its direction
}

// at returns where the data of a message is, in a frame, and its operation.
func at(f []byte) (data int, operation string) {
	if len(f) < 32 || f[5] != kindMessage {
		return len(f), ""
	}
	op := 27 + int(f[26])
	data = op + 1 + int(f[op]) + 4
	return data, string(f[op+1 : data-4])
}

// changing applies change to the data of messages of an operation.
func changing(operation string, change func(data []byte)) func(*faultyStream, []byte) []byte {
	return func(_ *faultyStream, f []byte) []byte {
		if data, op := at(f); op == operation {
			change(f[data:][:binary.BigEndian.Uint32(f[data-4:])]) // other fields follow
		}
		return f
	}
}

// saying replaces the data of messages of an operation.
func saying(operation string, data []byte) func(*faultyStream, []byte) []byte {
	return func(_ *faultyStream, f []byte) []byte {
		if _, op := at(f); op == operation {
			return messageOf([16]byte(f[6:22]), 0, "node", operation, data)
		}
		return f
	}
}

func faults() []fault {
	var total, open atomic.Int32
	var writing sync.Mutex
	kind := func(f []byte) byte { return f[5] }
	return []fault{
		{name: "replies bear another ID", rules: []string{"reply-id", "vectors", "early"}, reply: func(_ *faultyStream, f []byte) []byte {
			if kind(f) == kindMessage {
				f[10] ^= 1
			}
			return f
		}},
		{name: "a bit of the data flips", rules: []string{"ping", "unread", "many-at-once", "pieces"}, reply: changing("pong", func(b []byte) {
			if len(b) > 0 {
				b[len(b)/2] ^= 1
			}
		})},
		{name: "every version will do", rules: []string{"other-versions"}, request: func(_ identity.ID, f []byte) []byte {
			f[4] = 1
			return f
		}},
		{name: "every kind is a message", rules: []string{"other-versions", "turns"}, request: func(_ identity.ID, f []byte) []byte {
			f[5] = 1
			return f
		}},
		{name: "errors have another code", rules: []string{"malformed", "too-large", "other-versions", "cut-frames", "bad-greetings", "impostor"},
			reply: func(_ *faultyStream, f []byte) []byte {
				if kind(f) == kindError {
					f[7] = 1
				}
				return f
			}},
		{name: "errors are not told", rules: []string{"malformed", "too-large", "cut-frames"}, reply: func(_ *faultyStream, f []byte) []byte {
			if kind(f) == kindError {
				return nil
			}
			return f
		}},
		{name: "an error costs the connection", rules: []string{"undisturbed"}, reply: func(s *faultyStream, f []byte) []byte {
			if kind(f) == kindError {
				s.conn.CloseWithError(transport.CodeProtocol, "enough")
			}
			return f
		}},
		{name: "resets have another code", rules: []string{"unknown-service", "one-control"}, reset: func(transport.Code) transport.Code { return transport.CodeInternal }},
		{name: "every service is the message service", rules: []string{"unknown-service"}, service: func(*faultyStream, string) string {
			return messageService[1:]
		}},
		{name: "talks to those who name no service", rules: []string{"bad-service"}, service: func(s *faultyStream, name string) string {
			if name != messageService[1:] {
				s.Stream.Write([]byte("what?"))
				s.Stream.Close()
			}
			return name
		}},
		{name: "one exchange a stream", rules: []string{"turns", "early", "reply-id"}, reply: func(s *faultyStream, f []byte) []byte {
			s.Stream.Write(f)
			s.Stream.Close()
			return nil
		}},
		{name: "who ends its direction has gone", rules: []string{"half-close"}, eof: func(s *faultyStream) { s.Stream.Reset(transport.CodeCancelled) }},
		{name: "a read is a frame", rules: []string{"pieces"}, short: func(s *faultyStream) { s.Stream.Reset(transport.CodeProtocol) }},
		{name: "later fields are refused", rules: []string{"later-fields"}, request: func(_ identity.ID, f []byte) []byte {
			if data, op := at(f); op != "" && len(f) > data+int(binary.BigEndian.Uint32(f[data-4:])) {
				f[5] = 77
			}
			return f
		}},
		{name: "frames of more than a megabyte are dropped", rules: []string{"sizes"}, request: func(_ identity.ID, f []byte) []byte {
			if len(f) > 1<<20 {
				return frame(kindNone, nil)
			}
			return f
		}},
		{name: "no word of unknown operations", rules: []string{"unknown-operation"}, reply: func(_ *faultyStream, f []byte) []byte {
			if _, op := at(f); op == "unknownop" {
				return frame(kindNone, nil)
			}
			return f
		}},
		{name: "no time is too little time", rules: []string{"time-out"}, request: func(_ identity.ID, f []byte) []byte {
			if data, _ := at(f); data < len(f) && binary.BigEndian.Uint32(f[22:]) == 1 {
				f[5] = 77
			}
			return f
		}},
		{name: "five streams at most", rules: []string{"half-frames", "unread"},
			accept: func(s *faultyStream) bool { s.onClose = func() { open.Add(-1) }; return open.Add(1) <= 5 }},
		{name: "five hundred streams in all", rules: []string{"resets-give-back"}, accept: func(*faultyStream) bool { return total.Add(1) <= 500 }},
		{name: "one write at a time", rules: []string{"unread"}, reply: func(s *faultyStream, f []byte) []byte {
			writing.Lock()
			defer writing.Unlock()
			s.Stream.Write(f)
			return nil
		}},
		{name: "pongs with other bytes", rules: []string{"control"}, reply: func(s *faultyStream, f []byte) []byte {
			if s.name == "pheromones.link" && f[0] == sayPong {
				f[7] ^= 1
			}
			return f
		}},
		{name: "no incarnation", rules: []string{"control"}, reply: func(s *faultyStream, f []byte) []byte {
			if s.name == "pheromones.link" && f[0] == sayHello {
				clear(f[3:11])
			}
			return f
		}},
		{name: "a peer comes once", rules: []string{"resumed", "dial-again"}, dialled: func(_ transport.Conn, nth int) bool { return nth == 1 }},

		{name: "anybody may introduce anybody", rules: []string{"impostor"}, request: func(peer identity.ID, f []byte) []byte {
			if data, op := at(f); op == connectreq && len(f) >= data+35 {
				copy(f[data+3:], peer[:])
			}
			return f
		}},
		{name: "introduces another", rules: []string{"introduction"}, reply: changing("connectresp", func(b []byte) { b[3] ^= 1 })},
		{name: "has no seq", rules: []string{"introduction"}, reply: changing("connectresp", func(b []byte) { clear(b[35:43]) })},
		{name: "knows nobody", rules: []string{"get", "introduction", "notices"}, reply: saying("getresp", []byte{1, 0})},
		{name: "forgets where the asker stood", rules: []string{"pages"}, reply: changing("fetchresp", func(b []byte) { clear(b[34:66]) })},
		{name: "gives no page", rules: []string{"pages"}, reply: saying("fetchresp", make([]byte, 67))},
		{name: "gives an empty page", rules: []string{"pages"}, reply: saying("fetchresp", append([]byte{1}, make([]byte, 66)...))},
		{name: "greetings of every version", rules: []string{"bad-greetings"}, request: func(_ identity.ID, f []byte) []byte {
			if data, op := at(f); strings.HasSuffix(op, "req") && len(f) > data {
				f[data] = 1
			}
			return f
		}},
		{name: "later greetings are refused", rules: []string{"later-greetings"}, request: func(_ identity.ID, f []byte) []byte {
			if data, op := at(f); op == getreq && len(f) > data+34 {
				f[data] = 99
			}
			return f
		}},
		{name: "notes nothing", rules: []string{"notices"}, request: func(_ identity.ID, f []byte) []byte {
			if data, op := at(f); op == noticereq && len(f) > data+40 {
				f[data+10] ^= 1 // of another, then
			}
			return f
		}},
	}
}

// A node with a fault is found out, by each of the rules that are there for it.
func TestAgainstBroken(t *testing.T) {
	for _, f := range faults() {
		t.Run(strings.ReplaceAll(f.name, " ", "-"), func(t *testing.T) {
			h := outside("mem")
			h.patience, h.Watchdog = time.Second, 8*time.Second
			h.Select = func(r Rule) bool { return slices.Contains(f.rules, r.Name) }
			addr := nodeAt(t, h, func(tr transport.Transport) transport.Transport { return &faultyTransport{Transport: tr, fault: &f} })
			ran := 0
			err := RunAgainst(t.Context(), h, addr, func(r Result) {
				ran++
				var found *Finding
				if !errors.As(r.Err, &found) {
					t.Errorf("%s does not find it: %v %s", r.Rule.Name, r.Err, r.Skipped)
				} else if strings.Contains(found.Seen, "panic") || strings.Contains(found.Seen, "still not finished") {
					t.Errorf("%s finds something else: %v", r.Rule.Name, found)
				}
			})
			if ran != len(f.rules) || err == nil {
				t.Errorf("%d of %d rules ran: %v", ran, len(f.rules), err)
			}
		})
	}
}

// Every rule is proved by a node that it finds out.
func TestAgainstProved(t *testing.T) {
	proved := make(map[string]bool)
	for _, f := range faults() {
		for _, name := range f.rules {
			proved[name] = true
		}
	}
	for _, list := range [][]string{laxRules(), {"right-peer", "not-another"}} {
		for _, name := range list {
			proved[name] = true
		}
	}
	for _, r := range AgainstRules() {
		if !proved[r.Name] {
			t.Errorf("no broken node proves the rule %s", r.Name)
		}
		delete(proved, r.Name)
	}
	for name := range proved {
		t.Errorf("there is no rule %s", name)
	}
}

// faultyTransport is the transport of a node with a fault.
type faultyTransport struct {
	transport.Transport
	fault *fault

	mu    sync.Mutex
	conns map[identity.ID]int // how many each peer has dialled
}

func (t *faultyTransport) Listen(ctx context.Context, addr transport.Addr) (transport.Listener, error) {
	l, err := t.Transport.Listen(ctx, addr)
	return &faultyListener{l, t}, err
}

type faultyListener struct {
	transport.Listener
	t *faultyTransport
}

func (l *faultyListener) Accept(ctx context.Context) (transport.Conn, error) {
	for {
		c, err := l.Listener.Accept(ctx)
		if err != nil {
			return nil, err
		}
		l.t.mu.Lock()
		if l.t.conns == nil {
			l.t.conns = make(map[identity.ID]int)
		}
		l.t.conns[c.Info().RemotePeer]++
		nth := l.t.conns[c.Info().RemotePeer]
		l.t.mu.Unlock()
		if f := l.t.fault.dialled; f != nil && !f(c, nth) {
			c.CloseWithError(transport.CodeRefused, "again?")
			continue
		}
		return &faultyConn{c, l.t.fault}, nil
	}
}

type faultyConn struct {
	transport.Conn
	fault *fault
}

func (c *faultyConn) AcceptStream(ctx context.Context) (transport.Stream, error) {
	for {
		s, err := c.Conn.AcceptStream(ctx)
		if err != nil {
			return nil, err
		}
		f := &faultyStream{Stream: s, conn: c, fault: c.fault}
		if c.fault.accept != nil && !c.fault.accept(f) {
			s.Reset(transport.CodeLimit)
			continue
		}
		return f, nil
	}
}

// faultyStream gives the node what a peer says frame by frame, changed.
type faultyStream struct {
	transport.Stream
	conn  *faultyConn
	fault *fault

	came    []byte // from the peer, not whole yet
	ready   []byte // for the node
	served  bool   // the service has been named
	name    string // of the service
	beyond  bool   // what comes is no frame: it is passed on as it is
	err     error
	once    sync.Once
	onClose func()
}

func (s *faultyStream) Read(p []byte) (int, error) {
	for len(s.ready) == 0 {
		if s.err != nil {
			return 0, s.err
		}
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.ready)
	s.ready = s.ready[n:]
	return n, nil
}

// need returns how many bytes the next piece has, as far as that is known.
func (s *faultyStream) need() int {
	switch {
	case !s.served && len(s.came) == 0:
		return 1
	case !s.served:
		return 1 + int(s.came[0])
	case len(s.came) < 4:
		return 4
	}
	size := binary.BigEndian.Uint32(s.came)
	if s.beyond = size > maxAnswer || size < 2; s.beyond {
		return len(s.came)
	}
	return 4 + int(size)
}

// fill reads until the next piece is there. Only the end of the stream is remembered: a deadline may pass and be moved.
func (s *faultyStream) fill() error {
	for {
		need := s.need()
		if s.beyond {
			s.ready, s.came = s.came, nil
			if len(s.ready) > 0 {
				return nil
			}
			need = 1
		}
		if need > 1 && len(s.came) == need || !s.served && len(s.came) > 0 && len(s.came) == need {
			s.whole()
			return nil
		}
		b := make([]byte, min(need-len(s.came), 64<<10))
		n, err := s.Stream.Read(b)
		s.came = append(s.came, b[:n]...)
		if n > 0 && n < len(b) && s.served && s.fault.short != nil {
			s.fault.short(s)
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			if err == io.EOF && s.fault.eof != nil {
				s.fault.eof(s)
			}
			s.ready, s.came, s.err = s.came, nil, err
			if len(s.ready) > 0 {
				return nil
			}
		}
		if err != nil {
			return err
		}
	}
}

// whole hands on a piece.
func (s *faultyStream) whole() {
	b := s.came
	s.came = nil
	switch {
	case !s.served:
		s.served, s.name = true, string(b[1:])
		if s.fault.service != nil {
			name := s.fault.service(s, string(b[1:]))
			b = append([]byte{byte(len(name))}, name...)
		}
	case s.fault.request != nil:
		b = s.fault.request(s.conn.Info().RemotePeer, b)
	}
	s.ready = b
}

func (s *faultyStream) Write(p []byte) (int, error) {
	b := p
	if s.fault.reply != nil && len(p) >= 6 {
		if b = s.fault.reply(s, bytes.Clone(p)); b == nil {
			return len(p), nil
		}
	}
	if _, err := s.Stream.Write(b); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (s *faultyStream) Close() error {
	if s.onClose != nil {
		s.once.Do(s.onClose)
	}
	return s.Stream.Close()
}

func (s *faultyStream) Reset(code transport.Code) error {
	if s.onClose != nil {
		s.once.Do(s.onClose)
	}
	if s.fault.reset != nil {
		code = s.fault.reset(code)
	}
	return s.Stream.Reset(code)
}

// A transport that does not check who answers, or does not know who it is, is found out as well.
func TestAgainstWrongPeer(t *testing.T) {
	for rule, wrap := range map[string]func(transport.Transport) transport.Transport{
		"not-another": func(tr transport.Transport) transport.Transport { return anybodyWillDo{tr} },
		"right-peer":  func(tr transport.Transport) transport.Transport { return namelessTransport{tr} },
	} {
		h := outside("mem")
		addr := nodeAt(t, h, nil)
		sound := h.New
		h.New = func(key identity.Key) (transport.Transport, error) {
			tr, err := sound(key)
			return wrap(tr), err
		}
		h.Select = func(r Rule) bool { return r.Name == rule }
		if err := RunAgainst(t.Context(), h, addr, func(Result) {}); err == nil {
			t.Errorf("%s does not find it", rule)
		}
	}
}

type anybodyWillDo struct{ transport.Transport }

func (a anybodyWillDo) Dial(ctx context.Context, addr transport.Addr) (transport.Conn, error) {
	addr.Peer = identity.ID{}
	return a.Transport.Dial(ctx, addr)
}

type namelessTransport struct{ transport.Transport }

func (n namelessTransport) Dial(ctx context.Context, addr transport.Addr) (transport.Conn, error) {
	c, err := n.Transport.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	i := c.Info()
	i.LocalPeer = identity.ID{}
	return &conn{Conn: c, info: &i}, nil
}

// A node of plain transports that serves nothing breaks every rule that asks it something, and no rule hangs.
func TestAgainstMute(t *testing.T) {
	h := outside("mem")
	h.patience, h.Watchdog = 50*time.Millisecond, 10*time.Second
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	tr, err := h.New(key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tr.Listen(t.Context(), h.Listen)
	if err != nil {
		t.Fatal(err)
	}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			if _, err := l.Accept(context.Background()); err != nil {
				return
			}
		}
	})
	defer accepting.Wait()
	defer tr.Close()
	ran := 0
	RunAgainst(t.Context(), h, l.Addr(), func(r Result) {
		if r.Skipped != "" {
			return
		}
		ran++
		if r.Err == nil {
			t.Errorf("%s finds nothing", r.Rule.Name)
		}
	})
	if ran < 25 {
		t.Errorf("%d rules ran, want all that can", ran)
	}
}

// A node that dies is given up after some rules, each of which says so, and one that was never there at once.
func TestAgainstUnreachable(t *testing.T) {
	h := outside("tcp")
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	addr := transport.Addr{Scheme: "tcp", HostPort: "127.0.0.1:1", Peer: key.ID()}
	var op *transport.OpError
	if err := RunAgainst(t.Context(), h, addr, func(r Result) { t.Errorf("%s ran", r.Rule.Name) }); !errors.As(err, &op) || op.Op != "dial" {
		t.Errorf("nobody is there: got %v, want the error of a dial", err)
	}
	if err := RunAgainst(t.Context(), h, transport.Addr{Scheme: "mux", HostPort: "127.0.0.1:1"}, nil); !errors.Is(err, transport.ErrBadAddr) {
		t.Errorf("an address of another scheme: got %v, want ErrBadAddr", err)
	}

	tr, err := h.New(key)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	addr = nodeAt(t, h, func(own transport.Transport) transport.Transport { own.Close(); return tr })
	var after []Result
	err = RunAgainst(t.Context(), h, addr, func(r Result) {
		switch {
		case r.Rule.Name == "half-close":
			tr.Close()
			after = nil
		case r.Skipped == "":
			after = append(after, r)
		}
	})
	var gone *UnreachableError
	if !errors.As(err, &gone) || gone.Addr != addr || gone.Rule.Name != "bad-service" || !errors.As(gone.Err, &op) {
		t.Errorf("got %v, want an *UnreachableError of %s", err, addr)
	}
	if len(after) != maxUnreached {
		t.Errorf("%d rules ran in vain, want %d", len(after), maxUnreached)
	}
	for _, r := range after {
		if r.Err == nil || !strings.Contains(r.Err.Error(), "want the node to be reached") {
			t.Errorf("%s: got %v", r.Rule.Name, r.Err)
		}
	}
}

// laxRules are the rules that find out a server of TLS that takes anybody and talks nonsense.
func laxRules() []string {
	return []string{"strangers", "strangers-shed", "old-tls", "certificate", "bad-certificates", "other-alpn", "short-frames", "short-credit",
		"short-breach", "short-reset", "yamux", "yamux-reset", "yamux-unknown", "yamux-breach"}
}

func TestAgainstLax(t *testing.T) {
	for _, scheme := range []string{"tcp", "mux"} {
		t.Run(scheme, func(t *testing.T) {
			h := outside(scheme)
			h.patience, h.Watchdog, h.HandshakeTimeout = 200*time.Millisecond, 1500*time.Millisecond, 100*time.Millisecond
			h.Select = func(r Rule) bool { return slices.Contains(laxRules(), r.Name) }
			addr, end := lax(t, h)
			defer end()
			want := map[string]string{
				"old-tls": "want it to be refused", "bad-certificates": "want it to be refused", "other-alpn": "want it to be refused",
				"strangers-shed": "want the connection to be closed",
			}
			RunAgainst(t.Context(), h, addr, func(r Result) {
				if r.Skipped == "" && (r.Err == nil || !strings.Contains(r.Err.Error(), want[r.Rule.Name])) {
					t.Errorf("%s: got %v, want a finding that says %q", r.Rule.Name, r.Err, want[r.Rule.Name])
				}
			})
		})
	}
}

// lax listens with a server of TLS that proves its ID, takes anybody, and answers everything with the same bytes.
func lax(t *testing.T, h Transport) (transport.Addr, func()) {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := key.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			work.Go(func() {
				s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert, GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
					return &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert, NextProtos: i.SupportedProtos}, nil
				}})
				b := make([]byte, 1<<10)
				for {
					if _, err := s.Read(b); err != nil {
						return // and leaves it open
					}
					s.Write([]byte("\x00\x00\x00\x05what?"))
				}
			})
		}
	})
	return transport.Addr{Scheme: h.Listen.Scheme, HostPort: l.Addr().String(), Peer: key.ID()}, func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		work.Wait()
	}
}
