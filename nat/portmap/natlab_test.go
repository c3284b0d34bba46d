//go:build linux && natlab

package portmap

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/internal/natlab"
)

// The real thing: miniupnpd on a router of the lab, whose kernel forwards what we ask it for.

// declared is the outside address that miniupnpd is told to tell: it thinks nothing of those of the lab, which are for documentation.
const declared = "45.0.2.1"

const miniupnpd = `ext_ifname=wan
listening_ip=lan
ext_ip=` + declared + `
enable_natpmp=%s
enable_upnp=yes
secure_mode=yes
system_uptime=no
uuid=1a2b0e9f-63e3-4693-a252-66bfe8162391
upnp_table_name=miniupnpd
upnp_nat_table_name=miniupnpd
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
allow 1024-65535 0.0.0.0/0 1024-65535
`

const chains = `table inet miniupnpd
delete table inet miniupnpd
table inet miniupnpd {
	chain forward { type filter hook forward priority 0; policy accept; jump miniupnpd; }
	chain miniupnpd { }
	chain prerouting { type nat hook prerouting priority -110; jump prerouting_miniupnpd; }
	chain postrouting { type nat hook postrouting priority 90; jump postrouting_miniupnpd; }
	chain prerouting_miniupnpd { }
	chain postrouting_miniupnpd { }
}
`

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func nft(t *testing.T, r *natlab.Router, rules string) {
	t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	var said strings.Builder
	cmd.Stdin, cmd.Stderr = strings.NewReader(rules), &said
	err := r.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("nft: %v: %s", err, said.String())
	}
}

// daemon starts miniupnpd on a router, which knows nothing of before. stop ends it.
func daemon(t *testing.T, r *natlab.Router, natpmp bool) (stop func()) {
	t.Helper()
	program, err := exec.LookPath("/usr/sbin/miniupnpd")
	if err != nil {
		if os.Getenv("NATLAB") == "must" {
			t.Fatal(err)
		}
		fmt.Fprintf(os.Stderr, "!!! %s IS SKIPPED: %v\n", t.Name(), err)
		t.Skip(err)
	}
	nft(t, r, chains)
	dir := t.TempDir()
	conf := filepath.Join(dir, "conf")
	yes := map[bool]string{true: "yes", false: "no"}
	if err := os.WriteFile(conf, fmt.Appendf(nil, miniupnpd, yes[natpmp]), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-d", "-f", conf, "-P", filepath.Join(dir, "pid"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := r.Start(cmd); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cmd.Process.Kill()
			cmd.Wait()
			log.Close()
			if t.Failed() {
				text, _ := os.ReadFile(log.Name())
				t.Logf("miniupnpd:\n%s", text[max(0, len(text)-4000):])
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

// child is this test binary on a host: it listens and has the port mapped.
type child struct {
	cmd   *exec.Cmd
	lines chan string
	in    io.WriteCloser
}

func newChild(t *testing.T, h *natlab.Host, p Protocol) *child {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0], "-test.run=^TestChild$"), lines: make(chan string, 100)}
	c.cmd.Env = append(os.Environ(), "PORTMAP_CHILD="+strconv.Itoa(int(p)))
	c.cmd.Stderr = os.Stderr
	c.in = must(c.cmd.StdinPipe())
	out := must(c.cmd.StdoutPipe())
	if err := h.Start(c.cmd); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for s := bufio.NewScanner(out); s.Scan(); {
			c.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		c.in.Close()
		c.cmd.Process.Kill()
		<-read
		c.cmd.Wait()
	})
	return c
}

// wait returns the rest of the next line that begins with prefix.
func (c *child) wait(t *testing.T, prefix string) string {
	t.Helper()
	for {
		select {
		case line := <-c.lines:
			if rest, ok := strings.CutPrefix(line, prefix); ok {
				return strings.TrimSpace(rest)
			}
		case <-time.After(time.Minute):
			t.Fatalf("no line %q came", prefix)
		}
	}
}

// TestChild is not a test: it runs on hosts of the lab.
func TestChild(t *testing.T) {
	p, err := strconv.Atoi(os.Getenv("PORTMAP_CHILD"))
	if err != nil {
		t.Skip("it is for hosts of the lab")
	}
	m := New(&Config{Check: time.Second, Lifetime: 2 * time.Minute})
	for i := range m.clients {
		if i != p {
			m.clients[i] = mute{}
		}
	}
	packets := must(net.ListenPacket("udp4", "0.0.0.0:4001"))
	defer packets.Close()
	go func() {
		b := make([]byte, 100)
		for {
			n, from, err := packets.ReadFrom(b)
			if err != nil {
				return
			}
			packets.WriteTo(b[:n], from)
		}
	}()
	l := must(net.Listen("tcp4", "0.0.0.0:4001"))
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "hello")
			c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var releases []func(context.Context)
	for _, network := range []string{"udp", "tcp"} {
		releases = append(releases, m.Map(network, everywhere(4001), func(a netip.AddrPort) { fmt.Println(network, a) }))
	}
	bufio.NewScanner(os.Stdin).Scan()
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, release := range releases {
		release(ctx)
	}
	fmt.Println("released", ctx.Err())
}

// mute speaks no protocol.
type mute struct{ client }

func (mute) probe(context.Context, place) (grant, error) { return grant{}, ErrNoAnswer }

// reaches reports whether somebody on the internet gets an answer at an address, over UDP and TCP.
func reaches(t *testing.T, from *natlab.Host, udp, tcp netip.AddrPort) (answers [2]bool) {
	t.Helper()
	from.Do(func() error {
		c := must(net.Dial("udp4", udp.String()))
		defer c.Close()
		c.SetDeadline(time.Now().Add(500 * time.Millisecond))
		c.Write([]byte("hello"))
		b := make([]byte, 10)
		n, _ := c.Read(b)
		answers[0] = string(b[:n]) == "hello"
		d := net.Dialer{Timeout: 500 * time.Millisecond}
		if c, err := d.Dial("tcp4", tcp.String()); err == nil {
			defer c.Close()
			c.SetDeadline(time.Now().Add(time.Second))
			n, _ = io.ReadFull(c, b[:5])
			answers[1] = string(b[:n]) == "hello"
		}
		return nil
	})
	return answers
}

// TestMiniupnpd: by each protocol a port is mapped, so that everybody reaches it; a second host that wants it gets another one; it
// is made again after the daemon's restart; and it is gone when it is released.
func TestMiniupnpd(t *testing.T) {
	for p := range Protocol(protocols) {
		t.Run(p.String(), func(t *testing.T) {
			lab, err := natlab.New(nil)
			if errors.Is(err, natlab.ErrUnavailable) && os.Getenv("NATLAB") != "must" {
				fmt.Fprintf(os.Stderr, "!!! %s IS SKIPPED: %v\n", t.Name(), err)
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer lab.Close()
			r := must(lab.Router(natlab.NAT{Mapping: natlab.Independent}))
			nft(t, r, "add rule ip filter input iifname lan accept\n")
			stop := daemon(t, r, p != UPnP)
			stranger := must(lab.Public())

			mapped := func(c *child) (udp, tcp netip.AddrPort) {
				t.Helper()
				for !udp.IsValid() || !tcp.IsValid() {
					network, a, _ := strings.Cut(c.wait(t, ""), " ")
					*map[string]*netip.AddrPort{"udp": &udp, "tcp": &tcp}[network] = netip.MustParseAddrPort(a)
				}
				if udp.Addr() != netip.MustParseAddr(declared) || tcp.Addr() != udp.Addr() {
					t.Errorf("mapped to %s and %s, want %s", udp, tcp, declared)
				}
				return netip.AddrPortFrom(r.Outside(), udp.Port()), netip.AddrPortFrom(r.Outside(), tcp.Port())
			}
			first := newChild(t, must(r.Host()), p)
			udp, tcp := mapped(first)
			if udp.Port() != 4001 || tcp.Port() != 4001 {
				t.Errorf("mapped to ports %d and %d, want 4001, which is free", udp.Port(), tcp.Port())
			}
			if got := reaches(t, stranger, udp, tcp); got != [2]bool{true, true} {
				t.Errorf("by UDP and TCP the host is reached: %v", got)
			}
			second := newChild(t, must(r.Host()), p)
			udp2, tcp2 := mapped(second)
			if udp2.Port() == 4001 || tcp2.Port() == 4001 {
				t.Errorf("two hosts have port 4001")
			}
			if got := reaches(t, stranger, udp2, tcp2); got != [2]bool{true, true} {
				t.Errorf("by UDP and TCP the second host is reached: %v", got)
			}
			io.WriteString(second.in, "\n")
			second.wait(t, "released <nil>")

			stop()
			nft(t, r, chains) // and what it knew
			if got := reaches(t, stranger, udp, tcp); got != [2]bool{} {
				t.Errorf("without a mapping the host is reached: %v", got)
			}
			stop = daemon(t, r, p != UPnP)
			start := time.Now()
			for reaches(t, stranger, udp, tcp) != [2]bool{true, true} {
				if time.Since(start) > time.Minute {
					t.Fatal("the mapping was not made again within a minute of the daemon's restart")
				}
			}
			t.Logf("made again %v after the daemon's restart", time.Since(start).Round(100*time.Millisecond))

			io.WriteString(first.in, "\n")
			first.wait(t, "released <nil>")
			if got := reaches(t, stranger, udp, tcp); got != [2]bool{} {
				t.Errorf("after its release the host is reached: %v", got)
			}
		})
	}
}
