package quic

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// wire carries the packets of a tunnel in one direction: it loses some and swaps some.
type wire struct {
	dead   atomic.Bool
	delay  atomic.Int64 // of each packet, in nanoseconds
	loss   int          // one in so many; 0: none
	queue  chan late
	passed atomic.Int64
	most   atomic.Int64 // the size of the largest packet
}

// late is a packet on its way.
type late struct {
	data []byte
	due  time.Time
	to   netip.AddrPort
}

func newWire(loss int) *wire { return &wire{loss: loss, queue: make(chan late, 256)} }

func (w *wire) send(p []byte) error {
	w.most.Store(max(w.most.Load(), int64(len(p))))
	if w.dead.Load() || len(p) > 1400 || w.loss > 0 && rand.IntN(w.loss) == 0 {
		return nil
	}
	select {
	case w.queue <- late{data: bytes.Clone(p), due: time.Now().Add(time.Duration(w.delay.Load()))}:
		w.passed.Add(1)
		return nil
	default:
		return errors.New("the queue is full")
	}
}

// run delivers until ctx ends, and now and then in another order.
func (w *wire) run(ctx context.Context, to *Tunnel) {
	var kept []byte
	for {
		select {
		case l := <-w.queue:
			time.Sleep(time.Until(l.due))
			p := l.data
			switch {
			case w.loss > 0 && kept == nil && rand.IntN(w.loss) == 0:
				kept = p
				continue
			case kept != nil:
				to.Deliver(p)
				p, kept = kept, nil
			}
			to.Deliver(p)
		case <-ctx.Done():
			return
		}
	}
}

// relayed are two transports with a tunnel between them, and a connection through it.
type relayed struct {
	client, server     *Conn
	listeners          [2]*Listener // of the client and the server
	tunnels            [2]*Tunnel
	up, down           *wire
	clientID, serverID identity.ID
}

func newRelayed(t testing.TB, loss int, cfg *Config) *relayed {
	t.Helper()
	r := &relayed{up: newWire(loss), down: newWire(loss)}
	var trs [2]*Transport
	for i, w := range []*wire{r.up, r.down} {
		trs[i] = newTransport(t, newKey(t), cfg)
		r.listeners[i] = newListener(t, trs[i], "127.0.0.1:0")
		tn, err := r.listeners[i].NewTunnel(label, w.send)
		if err != nil {
			t.Fatal(err)
		}
		r.tunnels[i] = tn.(*Tunnel)
	}
	r.clientID, r.serverID = trs[0].id, trs[1].id
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { r.up.run(ctx, r.tunnels[1]) })
	wg.Go(func() { r.down.run(ctx, r.tunnels[0]) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	c, err := r.tunnels[0].Dial(newContext(t), r.serverID)
	if err != nil {
		t.Fatal(err)
	}
	r.client, r.server = c.(*Conn), accept(t, r.listeners[1])
	return r
}

var label = transport.Addr{Scheme: "relay", HostPort: "relay.example:1"}

// direct returns the address of a listener.
func (r *relayed) direct(i int) netip.AddrPort {
	return netip.MustParseAddrPort(r.listeners[i].Addr().HostPort)
}

func (r *relayed) setDead(dead bool) {
	r.up.dead.Store(dead)
	r.down.dead.Store(dead)
}

func TestTunnel(t *testing.T) {
	r := newRelayed(t, 0, nil)
	for _, end := range []struct {
		c    *Conn
		peer identity.ID
	}{{r.client, r.serverID}, {r.server, r.clientID}} {
		want := label
		want.Peer = end.peer
		if info := end.c.Info(); info.RemoteAddr != want || info.RemotePeer != end.peer || info.LocalAddr.Scheme != scheme {
			t.Errorf("Info is %+v, want the remote address %v", info, want)
		}
		if p := end.c.Path(); p.IsValid() {
			t.Errorf("the path is %v, want none, as it is a tunnel", p)
		}
	}
	if n := max(r.up.most.Load(), r.down.most.Load()); n > tunnelPacket {
		t.Errorf("the handshake had packets of %d bytes, want %d at most", n, tunnelPacket)
	}
	exchange(t, r.client, r.server)
	exchange(t, r.server, r.client)
	if err := r.client.SendDatagram([]byte("datagram")); err != nil {
		t.Fatal(err)
	}
	if p, err := r.server.ReceiveDatagram(newContext(t)); err != nil || string(p) != "datagram" {
		t.Errorf("received %q, %v", p, err)
	}
	// The other end sees why it ends, and an ordinary dial from the same ports is as ever.
	if err := r.client.CloseWithError(4711, "enough"); err != nil {
		t.Fatal(err)
	}
	wantClose(t, await(t, r.server), transport.CloseError{Code: 4711, Reason: "enough", Remote: true})
	exchange(t, dial(t, r.client.t, r.listeners[1].Addr()), accept(t, r.listeners[1]))
}

func TestTunnelOfAnotherPeer(t *testing.T) {
	r := newRelayed(t, 0, nil)
	stranger := newKey(t).ID()
	_, err := r.tunnels[0].Dial(newContext(t), stranger)
	var op *transport.OpError
	if !errors.Is(err, identity.ErrWrongPeer) || !errors.As(err, &op) || op.Addr.Peer != stranger || op.Addr.HostPort != label.HostPort {
		t.Errorf("Dial: %v, want ErrWrongPeer with the label", err)
	}
}

// flow sends random bytes each way over one stream and compares the hashes, while during runs.
func flow(t *testing.T, from, to *Conn, size int64, during func(sent *atomic.Int64)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	a, err := from.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	a.Write([]byte{1})
	b, err := to.AcceptStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	io.ReadFull(b, make([]byte, 1))
	deadline, _ := ctx.Deadline()
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	var wg sync.WaitGroup
	defer wg.Wait()
	var got atomic.Int64
	for _, way := range [][2]transport.Stream{{a, b}, {b, a}} {
		sums := make(chan [32]byte, 2)
		wg.Go(func() {
			h := sha256.New()
			src := rand.NewChaCha8([32]byte{byte(size)})
			if _, err := io.Copy(io.MultiWriter(way[0], h), io.LimitReader(src, size)); err != nil {
				t.Errorf("write: %v", err)
			}
			way[0].CloseWrite()
			sums <- [32]byte(h.Sum(nil))
		})
		wg.Go(func() {
			h := sha256.New()
			n, err := io.Copy(io.MultiWriter(h, counter{&got}), way[1])
			if err != nil || n != size {
				t.Errorf("read %d bytes of %d: %v", n, size, err)
				a.Reset(transport.CodeInternal) // the others need not wait
			}
			sums <- [32]byte(h.Sum(nil))
			if <-sums != <-sums {
				t.Error("what was read is not what was written")
			}
		})
	}
	during(&got)
}

type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// waitFor polls until done.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for ctx := newContext(t); !done(); time.Sleep(time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestMigrate moves a connection from a lossy tunnel to the direct path and back, under streams that are full in both directions.
func TestMigrate(t *testing.T) {
	t.Run("UDP", func(t *testing.T) { testMigrate(t, 24<<20, nil) })
	t.Run("another packet connection", func(t *testing.T) {
		testMigrate(t, 8<<20, &Config{ListenPacket: func(ctx context.Context, network, address string) (net.PacketConn, error) {
			c, err := new(net.ListenConfig).ListenPacket(ctx, network, address)
			return struct{ net.PacketConn }{c}, err
		}})
	})
}

func testMigrate(t *testing.T, size int64, cfg *Config) {
	r := newRelayed(t, 200, cfg)
	flow(t, r.client, r.server, size, func(got *atomic.Int64) {
		waitFor(t, "bytes by the tunnel", func() bool { return got.Load() > 1<<20 })
		if err := r.client.Migrate(newContext(t), r.direct(1)); err != nil {
			t.Error(err)
			return
		}
		if p := r.client.Path(); p != r.direct(1) {
			t.Errorf("the client's path is %v, want %v", p, r.direct(1))
		}
		waitFor(t, "the server to follow", func() bool { return r.server.Path() == r.direct(0) })
		r.setDead(true)
		moved := got.Load()
		waitFor(t, "bytes by the direct path", func() bool { return got.Load() > min(moved+size/3, 2*size-1) })
		for _, c := range []*Conn{r.client, r.server} {
			if a := c.Info().RemoteAddr; a.Scheme != scheme || a.Peer != c.peer {
				t.Errorf("the remote address is %v, want a direct one", a)
			}
		}
		r.setDead(false)
		if err := r.client.MigrateTunnel(newContext(t), r.tunnels[0]); err != nil {
			t.Error(err)
		}
	})
	if a := r.client.Info().RemoteAddr; a.Scheme != label.Scheme {
		t.Errorf("at the end the remote address is %v, want the tunnel's label", a)
	}
	exchange(t, r.client, r.server)
	waitFor(t, "the server to follow", func() bool {
		exchange(t, r.server, r.client)
		return r.server.Info().RemoteAddr.Scheme == label.Scheme
	})
}

func TestMigrateOften(t *testing.T) {
	const flips = 30
	r := newRelayed(t, 0, nil)
	flow(t, r.client, r.server, 8<<20, func(*atomic.Int64) {
		for i := range flips {
			var err error
			if i%2 == 0 {
				err = r.client.Migrate(newContext(t), r.direct(1))
			} else {
				err = r.client.MigrateTunnel(newContext(t), r.tunnels[0])
			}
			if err != nil {
				t.Errorf("migration %d: %v", i, err)
				return
			}
		}
	})
	exchange(t, r.client, r.server)
}

// TestMigrateNowhere checks that a connection that cannot move stays, whatever the reason.
func TestMigrateNowhere(t *testing.T) {
	r := newRelayed(t, 0, nil)
	silent, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.client.Migrate(ctx, addrPort(silent.LocalAddr())); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Migrate to a silent address: %v, want the context's error", err)
	}
	other := newRelayed(t, 0, nil)
	closed, err := r.listeners[0].NewTunnel(label, r.up.send)
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	var op *transport.OpError
	for _, tt := range []struct {
		name string
		err  error
		want error
	}{
		{"the accepting side", r.server.Migrate(newContext(t), r.direct(0)), errors.ErrUnsupported},
		{"IPv6", r.client.Migrate(newContext(t), netip.MustParseAddrPort("[::1]:4001")), transport.ErrBadAddr},
		{"no address", r.client.Migrate(newContext(t), netip.AddrPort{}), transport.ErrBadAddr},
		{"port 0", r.client.Migrate(newContext(t), netip.MustParseAddrPort("127.0.0.1:0")), transport.ErrBadAddr},
		{"another port's tunnel", r.client.MigrateTunnel(newContext(t), other.tunnels[0]), nil},
		{"a closed tunnel", r.client.MigrateTunnel(newContext(t), closed), nil},
	} {
		if tt.err == nil || tt.want != nil && !errors.Is(tt.err, tt.want) || !errors.As(tt.err, &op) || op.Op != "migrate" {
			t.Errorf("%s: %v, want an OpError of %v", tt.name, tt.err, tt.want)
		}
	}
	for range 8 { // more than there are connection IDs
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		r.client.Migrate(ctx, addrPort(silent.LocalAddr()))
		cancel()
	}
	exchange(t, r.client, r.server)
	if r.client.Path().IsValid() || r.server.Path().IsValid() {
		t.Error("the connection has moved")
	}
	if err := r.client.Migrate(newContext(t), r.direct(1)); err != nil {
		t.Errorf("Migrate after all that: %v", err)
	}
	exchange(t, r.server, r.client)
	other.client.CloseWithError(0, "")
	if err := other.client.Migrate(newContext(t), other.direct(1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Migrate of a closed connection: %v, want net.ErrClosed", err)
	}
}

func TestTunnelClose(t *testing.T) {
	r := newRelayed(t, 0, &Config{IdleTimeout: time.Second, KeepAlive: 100 * time.Millisecond})
	second, err := r.tunnels[0].Dial(newContext(t), r.serverID)
	if err != nil {
		t.Fatal(err)
	}
	left := accept(t, r.listeners[1])
	if err := r.client.Migrate(newContext(t), r.direct(1)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the server to follow", func() bool {
		exchange(t, r.client, r.server)
		return r.server.Path() == r.direct(0)
	})
	for range 2 {
		for _, tn := range r.tunnels {
			if err := tn.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := r.tunnels[0].Dial(newContext(t), r.serverID); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial through a closed tunnel: %v, want net.ErrClosed", err)
	}
	if a := left.Info().RemoteAddr; a.Scheme != label.Scheme {
		t.Errorf("a connection left on a closed tunnel has the remote address %v, want the label", a)
	}
	// Those left are cut off; the one that has moved outlives them.
	for _, c := range []*Conn{second.(*Conn), left} {
		var lost *transport.LostError
		if err := await(t, c); !errors.As(err, &lost) {
			t.Errorf("a connection left on a closed tunnel ended with %v", err)
		}
	}
	exchange(t, r.client, r.server)
	exchange(t, r.server, r.client)
	r.listeners[0].Close()
	if _, err := r.listeners[0].NewTunnel(label, r.up.send); !errors.Is(err, net.ErrClosed) {
		t.Errorf("NewTunnel of a closed listener: %v, want net.ErrClosed", err)
	}
}

// TestRebinding puts a NAT before the client that gives it a new port.
func TestRebinding(t *testing.T) {
	r := newRelayed(t, 0, nil)
	var outside atomic.Pointer[net.UDPConn]
	newPort := func() netip.AddrPort {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		outside.Store(c)
		t.Cleanup(func() { c.Close() })
		return addrPort(c.LocalAddr())
	}
	inside, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	server := net.UDPAddrFromAddrPort(r.direct(1))
	client := net.UDPAddrFromAddrPort(r.direct(0))
	var wg sync.WaitGroup
	back := func() {
		from := outside.Load()
		wg.Go(func() {
			b := make([]byte, 2048)
			for {
				n, _, err := from.ReadFromUDP(b)
				if err != nil {
					return
				}
				inside.WriteToUDP(b[:n], client)
			}
		})
	}
	first := newPort()
	back()
	wg.Go(func() {
		b := make([]byte, 2048)
		for {
			n, _, err := inside.ReadFromUDP(b)
			if err != nil {
				return
			}
			outside.Load().WriteToUDP(b[:n], server)
		}
	})
	defer wg.Wait()
	defer func() { outside.Load().Close() }()
	defer inside.Close()
	if err := r.client.Migrate(newContext(t), addrPort(inside.LocalAddr())); err != nil {
		t.Fatal(err)
	}
	r.setDead(true)
	flow(t, r.client, r.server, 8<<20, func(got *atomic.Int64) {
		waitFor(t, "the server to follow", func() bool { return r.server.Path() == first })
		old := outside.Load()
		second := newPort()
		back()
		old.Close()
		waitFor(t, "the server to follow to the new port", func() bool { return r.server.Path() == second })
	})
}

// TestInlet floods a socket by a tunnel: what comes by the socket gets through, the flood is bounded, and quic-go can close.
func TestInlet(t *testing.T) {
	r := newRelayed(t, 0, nil)
	direct := dial(t, r.client.t, r.listeners[1].Addr())
	accepted := accept(t, r.listeners[1])
	stop := make(chan struct{})
	var flood sync.Mutex // held while a packet is made up
	var wg sync.WaitGroup
	wg.Go(func() {
		junk := make([]byte, 1200)
		junk[0] = 0x41
		for {
			select {
			case <-stop:
				return
			default:
				flood.Lock()
				r.tunnels[1].Deliver(junk)
				flood.Unlock()
			}
		}
	})
	flow(t, direct, accepted, 1<<20, func(*atomic.Int64) {})
	flood.Lock() // a tunnel that is flooded loses most of its own packets, too
	exchange(t, r.client, r.server)
	flood.Unlock()
	closed := make(chan struct{})
	wg.Go(func() {
		defer close(closed)
		r.server.t.Close()
	})
	select {
	case <-closed:
	case <-newContext(t).Done():
		t.Error("Close hangs under a flood")
	}
	close(stop)
	wg.Wait()

	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	c := newPacketConn(udp, func(netip.AddrPort, error) {})
	tn := &Tunnel{l: &Listener{socket: &socket{conn: c, ways: c.ways}}}
	if err := c.tunnels.add(tn); err != nil {
		t.Fatal(err)
	}
	for _, p := range [][]byte{nil, {0x3f}, make([]byte, 10), bytes.Repeat([]byte{0xff}, maxPacket+1)} {
		tn.Deliver(p)
	}
	if len(c.inlet.queue) > 0 {
		t.Errorf("took %d packets that cannot be QUIC's", len(c.inlet.queue))
	}
	for range maxTunnelQueue + 10 {
		tn.Deliver([]byte{0x40})
	}
	if n := len(c.inlet.queue); n != maxTunnelQueue || tn.queued != n {
		t.Errorf("%d packets wait, %d counted; want %d", n, tn.queued, maxTunnelQueue)
	}
	// A batch of one, as on systems without batches, takes from both by turns.
	self, err := net.Dial("udp4", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	self.Write([]byte("socket"))
	sources := make(map[int]int)
	ms := []ipv4.Message{{Buffers: [][]byte{make([]byte, maxPacket)}}}
	for range 10 {
		if n, err := c.ReadBatch(ms, 0); n != 1 || err != nil {
			t.Fatalf("ReadBatch: %d, %v", n, err)
		}
		sources[ms[0].N]++
	}
	if sources[6] != 1 || sources[1] != 9 {
		t.Errorf("read %v packets by size, want 1 of 6 bytes and 9 of 1", sources)
	}
	for range maxTunnelQueue - 9 {
		if n, addr, err := c.ReadFrom(ms[0].Buffers[0]); n != 1 || addr != net.Addr(tn.virtual) || err != nil {
			t.Fatalf("ReadFrom: %d, %v, %v", n, addr, err)
		}
	}
	if tn.queued != 0 || c.inlet.pending.Load() {
		t.Errorf("%d packets count as waiting", tn.queued)
	}
	c.SetReadDeadline(time.Unix(1, 0))
	if _, err := c.ReadBatch(ms, 0); err == nil {
		t.Error("the deadline that quic-go sets does not hold")
	}
}

// thirdParty returns an address by which the two reach each other directly, until cut. It takes its time with each packet.
func (r *relayed) thirdParty(t *testing.T, delay time.Duration) (addr netip.AddrPort, cut *atomic.Bool) {
	nat, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	cut = new(atomic.Bool)
	under := make(chan late, 1<<14)
	var wg sync.WaitGroup
	t.Cleanup(func() {
		nat.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for p := range under {
			time.Sleep(time.Until(p.due))
			if !cut.Load() {
				nat.WriteToUDPAddrPort(p.data, p.to)
			}
		}
	})
	wg.Go(func() {
		defer close(under)
		b := make([]byte, 2048)
		for {
			n, from, err := nat.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			to := r.direct(0)
			if from == to {
				to = r.direct(1)
			}
			select {
			case under <- late{bytes.Clone(b[:n]), time.Now().Add(delay), to}:
			default: // it loses what is too much
			}
		}
	})
	return addrPort(nat.LocalAddr()), cut
}

// TestFlipDown flips while no path carries anything. What was sent meanwhile counts as under way, and quic-go asks for it ever more
// seldom; when a path carries again all must go on nevertheless, in both directions.
func TestFlipDown(t *testing.T) {
	r := newRelayed(t, 0, nil)
	const delay = 25 * time.Millisecond
	r.up.delay.Store(int64(delay))
	r.down.delay.Store(int64(delay))
	nat, cut := r.thirdParty(t, delay)
	ctx := newContext(t)
	a, err := r.client.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	a.Write([]byte{1})
	b, err := r.server.AcceptStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got [2]atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	for i, s := range []transport.Stream{a, b} {
		defer s.Reset(1)
		wg.Go(func() {
			for b := make([]byte, 8192); ; {
				if _, err := s.Write(b); err != nil {
					return
				}
			}
		})
		wg.Go(func() { io.Copy(counter{&got[i]}, s) })
	}
	if err := errors.Join(r.client.Migrate(ctx, nat), r.client.Standby(ctx, r.tunnels[0])); err != nil {
		t.Fatal(err)
	}
	more := func(i int, n int64) {
		now := got[i].Load()
		waitFor(t, "more bytes", func() bool { return got[i].Load() >= now+n })
	}
	more(1, 20<<20) // until much is under way
	cut.Store(true)
	r.setDead(true)
	for range 4 {
		time.Sleep(300 * time.Millisecond) // as a node would
		if err := r.client.Flip(); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(200 * time.Millisecond) // what was sent at the flip is lost
	cut.Store(false)
	r.setDead(false)
	began := time.Now()
	for i := range got {
		more(i, 2<<20)
		t.Logf("side %d has got 2 MB more %v later", i, time.Since(began))
	}
	r.client.route.moving <- struct{}{}
	if r.client.route.pause == renewAfter {
		t.Error("the path was not taken anew")
	}
	<-r.client.route.moving
}

// TestFlip cuts the path in use while it is full, which Migrate does not get away from, and back, and both.
func TestFlip(t *testing.T) {
	const size = 16 << 20
	r := newRelayed(t, 0, nil)
	if err := r.client.Flip(); err == nil {
		t.Error("a connection without standby flips")
	}
	if err := r.server.Standby(newContext(t), r.tunnels[1]); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Standby of the accepting side: %v", err)
	}
	nat, cut := r.thirdParty(t, 0)
	flow(t, r.client, r.server, size, func(got *atomic.Int64) {
		more := func() {
			now := got.Load()
			waitFor(t, "more bytes", func() bool { return got.Load() > min(now+100_000, 2*size-1) })
		}
		steps := func() error {
			return errors.Join(r.client.Migrate(newContext(t), nat), r.client.Standby(newContext(t), r.tunnels[0]))
		}
		if err := steps(); err != nil {
			t.Error(err)
			return
		}
		more()
		cut.Store(true)
		for old := int64(-1); old != got.Load(); time.Sleep(20 * time.Millisecond) {
			old = got.Load() // until all that may be under way is
		}
		if err := r.client.Flip(); err != nil {
			t.Error(err)
			return
		}
		more()
		if r.client.Path().IsValid() {
			t.Error("the path is not the tunnel")
		}
		cut.Store(false)
		r.setDead(true)
		if err := r.client.Flip(); err != nil {
			t.Error(err)
			return
		}
		more()
		r.setDead(false)
		for range 20 {
			if err := r.client.Flip(); err != nil {
				t.Error(err)
			}
		}
	})
	exchange(t, r.client, r.server)
}
