package conformance

import (
	"bytes"
	"testing"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/mux"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/tcp"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

// outside is the harness for judging a node over a transport.
func outside(scheme string) Transport {
	h := Transport{Listen: transport.Addr{Scheme: scheme, HostPort: "127.0.0.1:0"}}
	switch scheme {
	case "tcp":
		h.Network, h.ALPN = "tcp", tcp.ALPN
		h.New = func(key identity.Key) (transport.Transport, error) { return tcp.New(key, nil) }
	case "mux":
		h.Network, h.ALPN = "tcp", "pheromones/1"
		h.New = func(key identity.Key) (transport.Transport, error) { return mux.New(key, nil) }
	case "quic":
		h.Network = "udp"
		h.New = func(key identity.Key) (transport.Transport, error) { return quic.New(key, nil) }
	default:
		h.New = func(key identity.Key) (transport.Transport, error) { return mem.New(key, nil) }
	}
	return h
}

// nodeAt starts a node over a transport of the harness, changed by wrap, and returns its address.
func nodeAt(t *testing.T, h Transport, wrap func(transport.Transport) transport.Transport) transport.Addr {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	tr, err := h.New(key)
	if err != nil {
		t.Fatal(err)
	}
	if wrap != nil {
		tr = wrap(tr)
	}
	n, err := pheromones.New(pheromones.Config{Name: "node", Transports: []transport.Transport{tr}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	if err := n.Start(t.Context(), h.Listen.String()); err != nil {
		t.Fatal(err)
	}
	return n.Addrs()[0]
}

// A sound node keeps every rule, over every transport.
func TestAgainstSound(t *testing.T) {
	for _, scheme := range []string{"mem", "tcp", "mux", "quic"} {
		t.Run(scheme, func(t *testing.T) {
			h := outside(scheme)
			ran := 0
			if err := RunAgainst(t.Context(), h, nodeAt(t, h, nil), func(r Result) {
				if r.Skipped == "" {
					ran++
				}
				t.Logf("%s/%s: %v %s", r.Rule.Clause, r.Rule.Name, r.Elapsed, r.Skipped)
			}); err != nil {
				t.Error(err)
			}
			if ran < 25 {
				t.Errorf("%d rules ran, want at least 25", ran)
			}
		})
	}
}

// FuzzAnswers: whatever a node says is taken apart without a panic, and a message is what its bytes say.
func FuzzAnswers(f *testing.F) {
	f.Add(messageOf(newID(), 9, "name", "operation", []byte("data")))
	f.Add(frame(kindNone, nil))
	f.Add(frame(kindError, []byte{0, 7, 0, 2, 'n', 'o'}))
	f.Add(messageOf(newID(), 0, "", "getresp", append([]byte{1, 1}, entry{identity.ID{1}, 2, "peer", []string{"tcp://127.0.0.1:1"}}.append(nil)...)))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := readAnswer(bytes.NewReader(b))
		if err != nil {
			return
		}
		if a.kind == kindMessage {
			again := messageOf(a.id, 0, a.name, a.operation, a.data)
			if copy(again[22:26], b[22:26]); !bytes.Equal(again[6:], b[6:len(again)]) {
				t.Errorf("%x was read as %s", b, a)
			}
		}
		g := fields{rest: a.data}
		g.version()
		if list := g.entries(); g.err == nil && len(list) > maxEntries {
			t.Errorf("a list of %d entries", len(list))
		}
	})
}
