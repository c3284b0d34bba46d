//go:build linux && natlab

package natlab

import (
	"io"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/nat/stun"
)

// seen returns how a server sees a socket now.
func seen(t *testing.T, a asker, server netip.AddrPort) netip.AddrPort {
	t.Helper()
	results, err := a.Ask(t.Context(), server)
	if err != nil || results[0].Err != nil {
		t.Fatal(results, err)
	}
	return results[0].Mapped
}

// TestLabFaults: routers that forget, and hosts that move, are seen to do so.
func TestLabFaults(t *testing.T) {
	lab := newLab(t)
	server := serveSTUN(t, must(lab.PublicWith(2)))
	for _, nat := range []NAT{portRestricted, fullCone, symmetric} {
		home, office := must(lab.Router(nat)), must(lab.Router(nat))
		laptop := must(home.Host())
		a := newAsker(t, laptop, &stun.Config{RTO: 100 * time.Millisecond})
		first := seen(t, a, server)
		if again := seen(t, a, server); again != first {
			t.Errorf("%+v: seen at %s, then at %s", nat, first, again)
		}
		check := func(what string, err error, wantIP, wantPort bool) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			now := seen(t, a, server)
			if (now.Addr() != first.Addr()) != wantIP || (now.Port() != first.Port()) != wantPort {
				t.Errorf("%+v: %s: seen at %s, then at %s", nat, what, first, now)
			}
			if again := seen(t, a, server); again != now {
				t.Errorf("%+v: %s: seen at %s, then at %s", nat, what, now, again)
			}
			first = now
		}
		random := nat.Mapping == Dependent
		check("new address", home.NewAddress(), true, random)
		check("new ports", home.NewPorts(), false, true)
		check("new ports again", home.NewPorts(), false, true)
		if err := laptop.Down(); err != nil {
			t.Fatal(err)
		}
		if err := a.WritePacket([]byte("x"), server); err == nil {
			t.Errorf("%+v: a device that is down has sent", nat)
		}
		check("down and up", laptop.Up(), false, false)
		before := laptop.Addr()
		check("moved", laptop.Move(office), true, true) // the office has not used up its first ports
		if laptop.Addr() == before || first.Addr() != office.Outside() {
			t.Errorf("%+v: moved from %s to %s, seen at %s", nat, before, laptop.Addr(), first)
		}
	}
}

// TestHairpin: two hosts behind one NAT reach each other by their outside addresses only if it lets them.
func TestHairpin(t *testing.T) {
	lab := newLab(t)
	server := serveSTUN(t, must(lab.PublicWith(2)))
	for _, hairpin := range []bool{true, false} {
		nat := portRestricted
		nat.Hairpin, nat.NewPorts = hairpin, true
		carrier := must(lab.Carrier(nat))
		for _, pair := range [][2]*Host{
			{must(carrier.Host()), must(carrier.Host())},
			{must(must(carrier.Router(fullCone)).Host()), must(must(carrier.Router(fullCone)).Host())},
		} {
			a, b := newAsker(t, pair[0], nil), newAsker(t, pair[1], nil)
			from, to := seen(t, a, server), seen(t, b, server)
			if err := a.WritePacket([]byte("hello"), to); err != nil {
				t.Fatal(err)
			}
			var got packet
			select {
			case got = <-b.others:
			case <-time.After(500 * time.Millisecond):
			}
			if hairpin && (got.data != "hello" || got.from != from) || !hairpin && got.data != "" {
				t.Errorf("hairpin %v: %q came from %s, want from %s", hairpin, got.data, got.from, from)
			}
		}
	}
}

// TestKilled: a process that is killed leaves no program behind. It is this test once more, as that process.
func TestKilled(t *testing.T) {
	if os.Getenv("NATLAB_VICTIM") != "" {
		lab := newLab(t)
		cmd := exec.Command("sleep", "1000")
		cmd.Stdout = os.Stdout
		if err := must(lab.Public()).Start(cmd); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("started")
		select {}
	}
	newLab(t) // or skip
	victim := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	victim.Env = append(os.Environ(), "NATLAB_VICTIM=1")
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("started"))); err != nil {
		t.Error(err)
	}
	victim.Process.Kill()
	if _, err := io.Copy(io.Discard, out); err != nil { // it ends when nobody has the pipe any more
		t.Error(err)
	}
	victim.Wait()
}

// TestForgetUnderTraffic: a router that takes another address under traffic does so at once.
func TestForgetUnderTraffic(t *testing.T) {
	lab := newLab(t)
	server := must(lab.Public())
	sink := listen(t, server, "0.0.0.0:1000")
	for _, nat := range []NAT{portRestricted, fullCone, symmetric} {
		home := must(lab.Router(nat))
		source := listen(t, must(home.Host()), "0.0.0.0:0")
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for tick := time.Tick(200 * time.Microsecond); ; {
				select {
				case <-tick:
					source.WriteToUDPAddrPort([]byte{0}, netip.AddrPortFrom(server.Addr(), 1000))
				case <-stop:
					return
				}
			}
		}()
		b := make([]byte, 10)
		sink.SetReadDeadline(time.Now().Add(time.Minute))
		for round := range 2 {
			if err := home.NewAddress(); err != nil {
				t.Fatal(err)
			}
			changed := time.Now()
			for {
				_, from, err := sink.ReadFromUDPAddrPort(b)
				if err != nil {
					t.Fatal(err)
				}
				if late := time.Since(changed); late > time.Second { // what was under way, or waited, has come
					if from.Addr() != home.Outside() {
						t.Errorf("%+v: round %d: %v later packets come from %s, want %s", nat, round, late, from, home.Outside())
					}
					break
				}
			}
		}
		close(stop)
		<-stopped
	}
}
