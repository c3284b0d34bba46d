package relay

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

func TestPackets(t *testing.T) {
	bothWays(t, func(t *testing.T, w *world) {
		over := make(chan error, 1)
		a, r, b := three(w, &Config{}, func(_ context.Context, c *Circuit) {
			over <- c.Run(func(p []byte) { c.Send(p) })
		})
		c, got, ended := a.call(r.id, b.id)
		if c.Addr().String() != "relay://"+b.id.String()+"@"+r.id.String()+":1" {
			t.Errorf("address %s", c.Addr())
		}
		for i := range 500 { // the first ones before the call is accepted
			p := binary.BigEndian.AppendUint32(make([]byte, i), uint32(i))
			if err := c.Send(p); err != nil {
				t.Fatal(err)
			}
			if back := <-got; !bytes.Equal(back, p) {
				t.Fatalf("packet %d came back as %d bytes", i, len(back))
			}
		}
		if err := c.Send(make([]byte, MaxPacket+1)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("too large: %v", err)
		}
		// A datagram of the test has 1300 bytes at most: this takes the stream, and the largest goes nowhere but where everything
		// takes the stream.
		c.Send(make([]byte, mustFit))
		if back := <-got; len(back) != mustFit {
			t.Errorf("%d bytes came back", len(back))
		}
		c.Send(make([]byte, MaxPacket))
		synctest.Wait()
		if f := r.Figures(); f.Circuits != 1 || f.Reservations != 1 || f.Packets < 1002 || f.Strays != 0 || f.Bytes < 2*500*250 {
			t.Errorf("figures %+v", f)
		}
		if w.datagrams != (len(got) == 0) {
			t.Errorf("%d packets of %d bytes came back", len(got), MaxPacket)
		}
		// What was sent before Close arrives.
		drain(got)
		for range 50 {
			c.Send([]byte("last"))
		}
		c.Close()
		if err := <-over; err != nil {
			t.Errorf("the target's end: %v", err)
		}
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("the caller's end: %v", err)
		}
		synctest.Wait()
		if f := r.Figures(); f.Circuits != 0 || f.Reservations != 1 || f.Packets < 1050 {
			t.Errorf("figures afterwards %+v", f)
		}
		if len(a.ends)+len(b.ends)+len(r.circuits) != 0 {
			t.Error("something of the circuit is left")
		}
		if err := c.Send([]byte("x")); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("send after close: %v", err)
		}
	})
}

func drain(c chan []byte) {
	for len(c) > 0 {
		<-c
	}
}

func TestBytes(t *testing.T) {
	bothWays(t, func(t *testing.T, w *world) {
		a, r, b := three(w, &Config{Rate: -1, PeerRate: -1}, echo)
		call := func() transport.Stream {
			c, err := a.Connect(t.Context(), r.id, b.id, Bytes)
			if err != nil {
				t.Fatal(err)
			}
			return c.Stream()
		}
		s := call()
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		go func() {
			s.Write(data)
			s.CloseWrite()
		}()
		if back, err := io.ReadAll(s); err != nil || !bytes.Equal(back, data) {
			t.Errorf("%d bytes came back: %v", len(back), err)
		}
		s.Close()
		s = call()
		s.Write([]byte("x"))
		io.ReadFull(s, make([]byte, 1))
		b.links[r.id].CloseWithError(transport.Code(300), "gone")
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, transport.Code(300)) {
			t.Errorf("the target's link was closed: %v", err)
		}
		synctest.Wait()
		if f := r.Figures(); f.Circuits != 0 || f.Reservations != 0 || f.Bytes != uint64(2*len(data)+2) {
			t.Errorf("figures %+v", f)
		}
	})
}

func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true)
		a, r, b := three(w, &Config{}, nil)
		plain := w.node(nil, nil)
		w.link(a, plain)
		outcome := func(relay, peer identity.ID) error {
			_, _, ended := a.call(relay, peer)
			err := <-ended
			c, cerr := a.Connect(t.Context(), relay, peer, Bytes)
			if cerr != nil {
				t.Fatal(cerr)
			}
			_, berr := c.Stream().Read(make([]byte, 1))
			var one, two *RefusedError
			if !errors.As(err, &one) || !errors.As(berr, &two) || one.Reason != two.Reason || one.Peer != peer || one.Relay != relay {
				t.Errorf("packets: %v; bytes: %v", err, berr)
			}
			return err
		}
		if err := outcome(plain.id, b.id); !errors.Is(err, NotRelaying) {
			t.Errorf("who relays for nobody: %v", err)
		}
		if _, err := a.Reserve(t.Context(), plain.id); !errors.Is(err, NotRelaying) {
			t.Errorf("a reservation with who relays for nobody: %v", err)
		}
		if err := outcome(r.id, b.id); !errors.Is(err, Declined) {
			t.Errorf("who accepts nothing: %v", err)
		}
		if err := outcome(r.id, plain.id); !errors.Is(err, NoReservation) {
			t.Errorf("who is not there: %v", err)
		}
		if err := outcome(r.id, a.id); !errors.Is(err, NoReservation) {
			t.Errorf("oneself: %v", err)
		}
		// Somebody who is no relay of ours cannot call us, and cannot claim to relay for another.
		_, s, err := a.open(t.Context(), r.id, false, appendFrame(nil, frame{typ: typeIncoming, kind: Packets, circuit: 7, peer: b.id}))
		if err != nil {
			t.Fatal(err)
		}
		if f, err := readFrame(s, nil); err != nil || f.typ != typeRefused || f.reason != NotAllowed {
			t.Errorf("a call out of nowhere: %+v, %v", f, err)
		}
		// The one who was called does not answer.
		silent := w.node(nil, func(ctx context.Context, _ *Circuit) { <-ctx.Done() })
		w.link(silent, r)
		if _, err := silent.Reserve(t.Context(), r.id); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := outcome(r.id, silent.id); !errors.Is(err, Unanswered) || time.Since(start) != 2*answerTimeout {
			t.Errorf("who does not answer: %v, after %v", err, time.Since(start))
		}
		want := map[string]uint64{"declined": 2, "no reservation": 4, "unanswered": 2}
		if f := r.Figures(); f.Circuits != 0 || len(f.Refusals) != len(want) || f.Refusals["declined"] != 2 || f.Refusals["no reservation"] != 4 || f.Refusals["unanswered"] != 2 {
			t.Errorf("figures %+v, want refusals %v", f, want)
		}
	})
}

// Datagrams of no circuit, and of somebody else's, are dropped and counted.
func TestStrays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true)
		var arrived atomic.Int64
		a, r, b := three(w, &Config{}, func(_ context.Context, c *Circuit) {
			c.Run(func(p []byte) { arrived.Add(1); c.Send(p) })
		})
		c, got, _ := a.call(r.id, b.id)
		c.Send([]byte("x"))
		<-got
		thief := w.node(nil, nil)
		link, _ := w.link(thief, r)
		own, back, _ := thief.call(r.id, b.id)
		own.Send([]byte("x"))
		<-back
		arrived.Store(0)
		d := link.(*dgConn)
		var id uint64
		for i, other := range r.circuits {
			if other.peers[0] == a.id {
				id = i
			}
		}
		for _, b := range [][]byte{
			append(appendHeader(nil, toRelay, id), 'x'),    // another's circuit
			append(appendHeader(nil, fromRelay, id), 'x'),  // the wrong way
			append(appendHeader(nil, toRelay, id+1), 'x'),  // none
			appendHeader(nil, toRelay, id),                 // no packet
			{}, {9}, append(appendHeader(nil, 3, id), 'x'), // no header
			append(appendHeader(nil, toRelay, id), make([]byte, 1300-headerSize)...)[:1300], // as large as may be, and another's
		} {
			d.SendDatagram(b)
		}
		// A peer of the circuit that plays the relay.
		a.links[r.id].(*dgConn).SendDatagram(append(appendHeader(nil, fromRelay, id), 'x'))
		synctest.Wait()
		if f := r.Figures(); f.Strays != 9 || arrived.Load() != 0 || len(got) != 0 {
			t.Errorf("figures %+v, %d packets arrived, %d came back", f, arrived.Load(), len(got))
		}
	})
}

// Everything ends with the links.
func TestLinksEnd(t *testing.T) {
	bothWays(t, func(t *testing.T, w *world) {
		a, r, b := three(w, &Config{}, echo)
		for _, cut := range []*node{a, b} {
			c, got, ended := a.call(r.id, b.id)
			c.Send([]byte("x"))
			<-got
			cut.links[r.id].CloseWithError(transport.CodeNone, "")
			if err := <-ended; err == nil {
				t.Error("the circuit ended as if somebody had closed it")
			}
			synctest.Wait()
			f := r.Figures()
			if want := map[*node]int{a: 1, b: 0}[cut]; f.Circuits != 0 || f.Reservations != want {
				t.Errorf("figures %+v, want %d reservations", f, want)
			}
			w.link(cut, r)
		}
		if _, _, ended := a.call(r.id, b.id); !errors.Is(<-ended, NoReservation) {
			t.Error("a reservation outlived its link")
		}
		if _, err := b.Reserve(t.Context(), r.id); err != nil {
			t.Fatal(err)
		}
		c, got, ended := a.call(r.id, b.id)
		c.Send([]byte("x"))
		<-got
		r.Endpoint.Close()
		if err := <-ended; !errors.Is(err, transport.CodeShutdown) {
			t.Errorf("the relay has shut down: %v", err)
		}
	})
}

// A renewal over a new link outlives the old one.
func TestNewLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, true)
		a, r, b := three(w, &Config{}, echo)
		old := b.links[r.id]
		w.link(b, r)
		if _, err := b.Reserve(t.Context(), r.id); err != nil {
			t.Fatal(err)
		}
		old.CloseWithError(transport.CodeSuperseded, "")
		synctest.Wait()
		c, got, _ := a.call(r.id, b.id)
		c.Send([]byte("x"))
		<-got
		if f := r.Figures(); f.Reserved != 1 || f.Reservations != 1 {
			t.Errorf("figures %+v", f)
		}
	})
}

// Many at once, for the race detector.
func TestManyAtOnce(t *testing.T) {
	for _, datagrams := range []bool{true, false} {
		w := newWorld(t, datagrams)
		a, r, b := three(w, &Config{MaxCircuitsPerPeer: 100, Rate: -1, PeerRate: -1}, echo)
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() {
				if i%2 == 0 {
					c, err := a.Connect(t.Context(), r.id, b.id, Bytes)
					if err != nil {
						t.Error(err)
						return
					}
					s := c.Stream()
					s.Write([]byte("ping"))
					if _, err := io.ReadFull(s, make([]byte, 4)); err != nil {
						t.Error(err)
					}
					s.Close()
					return
				}
				c, got, ended := a.call(r.id, b.id)
				for range 20 {
					c.Send([]byte("ping"))
					select {
					case <-got:
					case err := <-ended:
						t.Error(err)
						return
					}
				}
				c.Close()
				<-ended
			})
		}
		all.Wait()
	}
}

// What comes with a call goes along with it only if the reservation says so.
func TestEarly(t *testing.T) {
	for _, early := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, true)
			ready := make(chan struct{})
			a, r, b := three(w, &Config{}, func(ctx context.Context, c *Circuit) {
				<-ready
				echo(ctx, c)
			})
			if !early {
				_, s, err := b.open(t.Context(), r.id, false, appendFrame(nil, frame{typ: typeReserve}))
				if err != nil {
					t.Fatal(err)
				}
				if f, err := readFrame(s, nil); err != nil || f.typ != typeReserved {
					t.Fatalf("%+v, %v", f, err)
				}
			}
			c, got, _ := a.call(r.id, b.id)
			c.Send([]byte("x"))
			synctest.Wait()
			if f := r.Figures(); (f.Packets == 1) != early {
				t.Errorf("early %v: %d packets were handed on before the call was accepted", early, f.Packets)
			}
			close(ready)
			if p := <-got; string(p) != "x" {
				t.Errorf("got %q", p)
			}
		})
	}
}
