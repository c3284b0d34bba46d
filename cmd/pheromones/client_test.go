package main

import (
	"bytes"
	"net"
	"reflect"
	"strings"
	"testing"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

func TestSend(t *testing.T) {
	eachTransport(t, func(t *testing.T, scheme string) {
		_, addr := serveAt(t, scheme)
		at, err := transport.ParseAddr(addr)
		if err != nil {
			t.Fatal(err)
		}
		code, out, errOut := try(t, "hello\n", "send", addr)
		if code != exitOK || out != "hello\n" || errOut != "" {
			t.Errorf("exit code %d, %q, %q", code, out, errOut)
		}
		code, out, errOut = try(t, "", "send", anybody(addr))
		if code != exitOK || out != "" || !strings.Contains(errOut, addr) {
			t.Errorf("without an ID: exit code %d, %q, %q; want to be told of %s", code, out, errOut, addr)
		}
		got := object[sent](t, mustTry(t, "grüezi", "send", "--operation", "greet", "--json", addr))
		if got.Operation != "greet" || got.From != at.Peer || got.Name != "host" || got.MS <= 0 || got.Text == nil || *got.Text != "grüezi" || got.Data != nil {
			t.Errorf("--json: %+v", got)
		}
		got = object[sent](t, mustTry(t, "\xff\x00", "send", "--json", addr))
		if !bytes.Equal(got.Data, []byte("\xff\x00")) || got.Text != nil {
			t.Errorf("--json of bytes: %+v", got)
		}
		large := strings.Repeat("0123456789abcdef", 1<<17) // 2 MiB
		if out := mustTry(t, large, "send", addr); out != large {
			t.Errorf("2 MiB came back as %d bytes", len(out))
		}
		code, _, errOut = try(t, strings.Repeat("x", protocol.DefaultLimit+1), "send", addr)
		if code != exitFailed || !strings.Contains(errOut, "larger") {
			t.Errorf("too much: exit code %d, %q", code, errOut)
		}
		wrong := somebodyElse(t, addr)
		code, out, errOut = try(t, "", "send", "--json", wrong)
		f := object[failure](t, out)
		if code != exitUnreachable || f.Exit != exitUnreachable || !strings.Contains(errOut, f.Error) || !strings.Contains(f.Error, at.Peer.String()) {
			t.Errorf("another peer: exit code %d, %+v, %q", code, f, errOut)
		}
	})
}

func TestSendUnknown(t *testing.T) {
	_, addr := serveAt(t, "mem", "--echo=false")
	code, out, errOut := try(t, "", "send", "--operation", "dance", addr)
	if code != exitFailed || out != "" || !strings.Contains(errOut, `"dance"`) {
		t.Errorf("exit code %d, %q, %q", code, out, errOut)
	}
}

func TestSendInterrupted(t *testing.T) {
	_, addr := serveAt(t, "mem")
	b := start(t, "send", "--json", addr)
	if _, err := b.stdin.Write([]byte("part of a message")); err != nil { // taken, so the command reads
		t.Fatal(err)
	}
	b.signal()
	f := object[failure](t, b.line()+"\n")
	if code := b.wait(); code != exitInterrupted || f.Exit != exitInterrupted || b.errors() != "pheromones: interrupted\n" {
		t.Errorf("exit code %d, %+v, %q", code, f, b.errors())
	}
}

func TestPing(t *testing.T) {
	eachTransport(t, func(t *testing.T, scheme string) {
		_, addr := serveAt(t, scheme, "--echo=false")
		out := mustTry(t, "", "ping", "-c", "3", "-i", "1ms", "--json", anybody(addr))
		lines := strings.SplitAfter(out, "\n")
		if len(lines) != 5 {
			t.Fatalf("got %q, want three replies and a summary", out)
		}
		for i, got := range objects[pong](t, strings.Join(lines[:3], "")) {
			setup := i == 0 || scheme == "tcp"
			if got.Seq != i+1 || got.MS <= 0 || got.Transport != scheme || got.Addr != addr || !strings.Contains(addr, got.From.String()) || got.Setup != setup {
				t.Errorf("got %+v", got)
			}
		}
		sum := object[pings](t, lines[3])
		if sum.Sent != 3 || sum.Received != 3 || sum.Loss != 0 || sum.Min <= 0 || sum.Min > sum.Avg || sum.Avg > sum.Max || sum.Mdev < 0 {
			t.Errorf("summary %+v", sum)
		}
		text := mustTry(t, "", "ping", "-c", "2", "-i", "0s", addr)
		for _, want := range []string{"seq=1 ", "seq=2 ", " (with set-up)\n", "2 sent, 2 received, 0% lost", "min/avg/max/mdev"} {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not in %q", want, text)
			}
		}
		code, out, _ := try(t, "", "ping", "-c", "3", somebodyElse(t, addr))
		if code != exitUnreachable || strings.Count(out, "no reply") != 1 || !strings.Contains(out, "1 sent, 0 received, 100% lost") {
			t.Errorf("another peer: exit code %d, %q", code, out)
		}
	})
}

func TestPingNobody(t *testing.T) {
	eachTransport(t, func(t *testing.T, scheme string) {
		b, addr := serveAt(t, scheme)
		b.signal()
		if code := b.wait(); code != exitOK {
			t.Fatalf("serve: exit code %d, %q", code, b.errors())
		}
		code, out, errOut := try(t, "", "ping", "-c", "2", "-i", "1ms", addr)
		if code != exitFailed || strings.Count(out, "no reply: seq=") != 2 || !strings.Contains(out, "2 sent, 0 received, 100% lost") ||
			!strings.Contains(errOut, "no reply from "+addr) {
			t.Errorf("exit code %d, %q, %q", code, out, errOut)
		}
		for _, args := range [][]string{{"send", addr}, {"send", anybody(addr)}, {"routes", addr}, {"pipe", addr, "x"}, {"pipe", "--listen", "127.0.0.1:0", addr, "x"}} {
			code, out, errOut := try(t, "", args...)
			if code != exitUnreachable || out != "" || !strings.Contains(errOut, "cannot reach "+scheme+"://") || strings.Count(errOut, "\n") != 1 {
				t.Errorf("%q: exit code %d, %q, %q", args, code, out, errOut)
			}
		}
	})
}

// Ctrl-C ends ping, which sums up.
func TestPingInterrupted(t *testing.T) {
	_, addr := serveAt(t, "mem")
	for _, long := range []string{"1h", "0s"} {
		b := start(t, "ping", "-i", long, addr)
		b.line()
		b.line() // the first reply
		b.signal()
		var rest string
		for line := ""; !strings.Contains(line, "lost"); {
			line = b.line()
			rest += line
		}
		if code := b.wait(); code != exitOK || !strings.Contains(rest, "0% lost, min/avg/max/mdev") {
			t.Errorf("-i %s: exit code %d, %q, %q", long, code, rest, b.errors())
		}
	}
}

func TestPings(t *testing.T) {
	s := pings{Sent: 4}
	for _, ms := range []float64{2, 4, 6} {
		s.add(ms)
	}
	s.finish()
	if s.Min != 2 || s.Avg != 4 || s.Max != 6 || s.Mdev != 1.633 || s.Loss != 0.25 || s.Received != 3 {
		t.Errorf("got %+v", s)
	}
	none := pings{}
	none.finish()
	if none.Loss != 0 || none.Avg != 0 {
		t.Errorf("got %+v", none)
	}
}

func TestRoutes(t *testing.T) {
	eachTransport(t, func(t *testing.T, scheme string) {
		asked, other := newNode(t, "asked", scheme), newNode(t, "other", scheme)
		addr := asked.Addrs()[0].String()
		if _, err := other.Add(t.Context(), addr); err != nil {
			t.Fatal(err)
		}
		want := []peer{
			{asked.ID(), "asked", asked.Addrs(), true},
			{other.ID(), "other", other.Addrs(), false},
		}
		for range 2 { // the first leaves nothing that the second could see
			if got := objects[peer](t, mustTry(t, "", "routes", "--json", addr)); !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if routes := asked.Routes(); len(routes) != 1 || routes[0].ID != other.ID() {
				t.Errorf("the node that was asked knows %+v", routes)
			}
		}
		code, text, errOut := try(t, "", "routes", anybody(addr))
		if code != exitOK || !strings.HasPrefix(text, "NAME ") || !strings.Contains(text, "\nasked ") || !strings.Contains(text, "\nother ") ||
			!strings.Contains(text, anybody(addr)+"\n") || !strings.Contains(errOut, addr) {
			t.Errorf("exit code %d, %q, %q", code, text, errOut)
		}
	})
}

// newNode returns a node that listens on loopback.
func newNode(t *testing.T, name, scheme string) *pheromones.Node {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	tr, err := newTransport(scheme, key)
	if err != nil {
		t.Fatal(err)
	}
	n, err := pheromones.New(pheromones.Config{Name: name, Transports: []transport.Transport{tr}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	if err := n.Start(t.Context(), scheme+"://127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	return n
}

// With -v standard error tells of links; without it, it does not.
func TestVerbose(t *testing.T) {
	for _, verbose := range []string{"-v", "-v=false"} {
		server, addr := serveAt(t, "mem", verbose)
		var out, errOut strings.Builder
		if code := run([]string{"ping", "-c", "1", verbose, addr}, strings.NewReader(""), &out, &errOut, nil, nothing); code != exitOK {
			t.Fatalf("exit code %d, %q", code, errOut.String())
		}
		server.signal()
		server.wait()
		for _, text := range []string{errOut.String(), server.errors()} {
			if strings.Contains(text, `msg="link up"`) != (verbose == "-v") {
				t.Errorf("%s: it said %q", verbose, text)
			}
		}
	}
}

// What peers call themselves cannot play tricks on a terminal.
func TestNamesAreClean(t *testing.T) {
	n := newNode(t, "a\x1b[2J\tb\nc", "mem")
	out := mustTry(t, "", "routes", n.Addrs()[0].String())
	if strings.Count(out, "\n") != 2 || strings.ContainsAny(out, "\x1b\t") || !strings.Contains(out, "\na\ufffd[2J\ufffdb\ufffdc ") {
		t.Errorf("got %q", out)
	}
}

// A peer that takes the connection and says nothing keeps a command for the time-out, or until it is interrupted.
func TestSilentPeer(t *testing.T) {
	release := make(chan struct{})
	silent := listenTCP(t, func(c *net.TCPConn) {
		<-release
		c.Close()
	})
	t.Cleanup(func() { close(release) })
	for _, scheme := range []string{"tcp", "mux"} {
		addr := scheme + "://" + silent
		code, _, errOut := try(t, "", "send", "--timeout", "50ms", addr)
		if code != exitUnreachable || !strings.Contains(errOut, "cannot reach "+addr) {
			t.Errorf("exit code %d, %q", code, errOut)
		}
		b := start(t, "routes", addr)
		b.signal()
		if code := b.wait(); code != exitInterrupted {
			t.Errorf("interrupted: exit code %d, %q", code, b.errors())
		}
	}
}
