package pheromones_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/mux"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/tcp"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

// schemes are the transports that every test of this file runs over.
var schemes = []string{"mem", "tcp", "mux", "quic"}

func newTransport(t testing.TB, scheme string, key identity.Key) transport.Transport {
	t.Helper()
	var tr transport.Transport
	var err error
	switch scheme {
	case "mem":
		tr, err = mem.New(key, nil)
	case "tcp":
		tr, err = tcp.New(key, nil)
	case "mux":
		tr, err = mux.New(key, nil)
	case "quic":
		tr, err = quic.New(key, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// newNode returns a node that listens on loopback over the given transports.
func newNode(t testing.TB, name string, h protocol.Handler, schemes ...string) *pheromones.Node {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	cfg := pheromones.Config{Name: name, Handler: h}
	var addrs []string
	for _, s := range schemes {
		cfg.Transports = append(cfg.Transports, newTransport(t, s, key))
		addrs = append(addrs, s+"://127.0.0.1:0")
	}
	n, err := pheromones.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	if err := n.Start(t.Context(), addrs...); err != nil {
		t.Fatal(err)
	}
	return n
}

func addrOf(n *pheromones.Node) string { return n.Addrs()[0].String() }

// echo answers with what it was told, and the name of who answers.
func echo(name string) protocol.Handler {
	return protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		return protocol.Message{Operation: "echoed", Data: []byte(name + ": " + string(m.Data))}, nil
	})
}

// eachTransport runs a test over every transport.
func eachTransport(t *testing.T, f func(t *testing.T, scheme string)) {
	for _, s := range schemes {
		t.Run(s, func(t *testing.T) { f(t, s) })
	}
}

// await waits for an event of w that done accepts, looking at the state as it is first.
func await(t *testing.T, w *router.Watcher, what string, done func() bool) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for !done() {
		select {
		case <-w.C():
		case <-timeout:
			t.Fatalf("waited 20 s for: %s", what)
		}
	}
}

func knows(n *pheromones.Node, names ...string) func() bool {
	return func() bool {
		have := map[string]bool{}
		for _, r := range n.Routes() {
			have[r.Name] = true
		}
		for _, name := range names {
			if !have[name] {
				return false
			}
		}
		return true
	}
}

// A node that adds one peer learns of the peers that one knows, and they learn of it.
func TestAddOneKnowAll(t *testing.T) {
	eachTransport(t, func(t *testing.T, scheme string) {
		a := newNode(t, "a", echo("a"), scheme)
		b := newNode(t, "b", echo("b"), scheme)
		c := newNode(t, "c", echo("c"), scheme)
		watchB := b.Watch()
		defer watchB.Close()
		id, err := b.Add(t.Context(), addrOf(a))
		if err != nil || id != a.ID() {
			t.Fatalf("Add: %v, %v; want %v", id, err, a.ID())
		}
		if _, err := c.Add(t.Context(), addrOf(a)); err != nil {
			t.Fatal(err)
		}
		if !knows(c, "a", "b")() {
			t.Fatalf("after Add, c knows %v; want a and b", c.Routes())
		}
		await(t, watchB, "b hears of c", knows(b, "c"))
		reply, err := b.Dispatch(t.Context(), "c", protocol.Message{Operation: "echo", Data: []byte("hello")})
		if err != nil || string(reply.Data) != "c: hello" || reply.From != c.ID() || reply.Name != "c" {
			t.Fatalf("Dispatch: %+v, %v", reply, err)
		}
		results := a.DispatchAll(t.Context(), protocol.Message{Operation: "echo", Data: []byte("all")})
		if len(results) != 2 {
			t.Fatalf("DispatchAll reached %d peers, want 2", len(results))
		}
		for id, res := range results {
			if res.Err != nil || !strings.HasSuffix(string(res.Reply.Data), ": all") || res.Reply.From != id {
				t.Errorf("DispatchAll at %v: %+v", id, res)
			}
		}
		if err := a.Delete("b"); err != nil {
			t.Fatal(err)
		}
		results = a.DispatchAll(t.Context(), protocol.Message{Operation: "echo", Data: []byte("all")})
		if _, ok := results[c.ID()]; !ok || len(results) != 1 {
			t.Fatalf("after Delete, DispatchAll reached %v, want c only", results)
		}
		if _, err := a.Dispatch(t.Context(), "b", protocol.Message{Operation: "echo"}); !errors.Is(err, router.ErrUnknownPeer) {
			t.Fatalf("Dispatch to the deleted peer: %v, want ErrUnknownPeer", err)
		}
	})
}

// Any number of calls at once share one link where the transport has links.
func TestOneLink(t *testing.T) {
	eachTransport(t, func(t *testing.T, scheme string) {
		a := newNode(t, "a", echo("a"), scheme)
		b := newNode(t, "b", echo("b"), scheme)
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				if reply, err := b.Dispatch(t.Context(), addrOf(a), protocol.Message{Operation: "echo"}); err != nil || string(reply.Data) != "a: " {
					t.Errorf("Dispatch: %+v, %v", reply, err)
				}
			})
		}
		wg.Wait()
		links := len(b.Routes()[0].Links)
		want := 1
		if scheme == "tcp" {
			want = 0
		}
		if links != want {
			t.Fatalf("%d links after 64 calls at once, want %d", links, want)
		}
	})
}

func TestNames(t *testing.T) {
	a := newNode(t, "a", nil, "mem")
	b1, b2 := newNode(t, "b", nil, "mem"), newNode(t, "b", nil, "mem")
	for _, b := range []*pheromones.Node{b1, b2} {
		if _, err := a.Add(t.Context(), addrOf(b)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := a.Dispatch(t.Context(), "b", protocol.Message{Operation: "echo"})
	var ambiguous *router.AmbiguousError
	if !errors.As(err, &ambiguous) || len(ambiguous.Peers) != 2 || !strings.Contains(err.Error(), b1.ID().String()) {
		t.Fatalf("Dispatch to a name that two bear: %v", err)
	}
	if reply, err := a.Dispatch(t.Context(), b1.ID().String(), protocol.Message{Operation: "other"}); err != nil || reply.Operation != protocol.OpUnknown {
		t.Fatalf("an unknown operation by ID: %+v, %v", reply, err)
	}
	if _, err := a.Add(t.Context(), addrOf(a)); !errors.Is(err, router.ErrSelf) {
		t.Fatalf("Add of oneself: %v", err)
	}
	for _, bad := range []string{"", "nonsense", "mem://", "foo://127.0.0.1:1"} {
		if _, err := a.Add(t.Context(), bad); err == nil {
			t.Errorf("Add(%q) succeeded", bad)
		}
	}
}

// net/http runs over a service of a node unchanged.
func TestServiceHTTP(t *testing.T) {
	eachTransport(t, func(t *testing.T, scheme string) {
		a, b := newNode(t, "a", nil, scheme), newNode(t, "b", nil, scheme)
		l, err := a.Listen("web")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Listen("web"); !errors.Is(err, pheromones.ErrServiceInUse) {
			t.Fatalf("a second Listen: %v", err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			addr, err := transport.ParseAddr(r.RemoteAddr)
			fmt.Fprint(w, r.URL.Path, " ", addr.Peer == b.ID(), err)
		})}
		done := make(chan error)
		go func() { done <- server.Serve(l) }()
		client := &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return b.Dial(ctx, addrOf(a), "web") },
		}}
		for range 3 {
			resp, err := client.Get("http://a/hello")
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || string(body) != "/hello true <nil>" {
				t.Fatalf("GET: %q, %v", body, err)
			}
		}
		client.CloseIdleConnections()
		server.Close()
		if err := <-done; err != http.ErrServerClosed {
			t.Fatalf("Serve: %v", err)
		}
		c, err := b.Dial(t.Context(), addrOf(a), "nowhere")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, transport.CodeUnknownService) {
			t.Fatalf("a service that is not there: %v", err)
		}
		c.Close()
	})
}

// Shutdown lets the handler that runs answer; Close does not.
func TestShutdown(t *testing.T) {
	eachTransport(t, func(t *testing.T, scheme string) {
		for _, graceful := range []bool{true, false} {
			entered, release := make(chan struct{}), make(chan struct{})
			h := protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
				close(entered)
				select {
				case <-release:
					return protocol.Message{Operation: "done"}, nil
				case <-ctx.Done():
					return protocol.Message{}, ctx.Err()
				}
			})
			a, b := newNode(t, "a", h, scheme), newNode(t, "b", nil, scheme)
			result := make(chan error, 1)
			go func() {
				reply, err := b.Dispatch(context.Background(), addrOf(a), protocol.Message{Operation: "slow"})
				if err == nil && reply.Operation != "done" {
					err = fmt.Errorf("reply %+v", reply)
				}
				result <- err
			}()
			<-entered
			stopped := make(chan error, 1)
			if graceful {
				go func() { stopped <- a.Shutdown(context.Background()) }()
				select {
				case err := <-stopped:
					t.Fatalf("Shutdown returned %v while a handler was running", err)
				case <-time.After(50 * time.Millisecond):
				}
				close(release)
			} else {
				go func() { stopped <- a.Close() }()
			}
			if err := <-result; (err == nil) != graceful {
				t.Errorf("graceful %v: the call under way returned %v", graceful, err)
			}
			if err := <-stopped; err != nil {
				t.Errorf("graceful %v: stopped with %v", graceful, err)
			}
			if _, err := a.Dispatch(t.Context(), addrOf(b), protocol.Message{Operation: "x"}); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Dispatch after the end: %v, want net.ErrClosed", err)
			}
			b.Close()
		}
	})
}
