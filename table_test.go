package pheromones_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/router/store"
	"github.com/Blockchain-CN/pheromones/transport"
)

func newKept(t *testing.T, scheme string, key identity.Key, dir string) (*pheromones.Node, error) {
	t.Helper()
	n, err := pheromones.New(pheromones.Config{Name: "kept", Dir: dir, Transports: []transport.Transport{newTransport(t, scheme, key)}})
	if err == nil {
		t.Cleanup(func() { n.Close() })
	}
	return n, err
}

// A node that is started anew in its folder knows whom it knew, and has links with those that it had added, unasked.
func TestTableLasts(t *testing.T) {
	eachTransport(t, func(t *testing.T, scheme string) {
		key, err := identity.Generate()
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "made", "if missing")
		b, c := newNode(t, "b", echo("b"), scheme), newNode(t, "c", echo("c"), scheme)
		if _, err := c.Add(t.Context(), addrOf(b)); err != nil {
			t.Fatal(err)
		}
		a, err := newKept(t, scheme, key, dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Add(t.Context(), addrOf(b)); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Dispatch(t.Context(), "c", protocol.Message{Operation: "x"}); err != nil {
			t.Fatal(err)
		}

		if _, err := newKept(t, scheme, key, dir); !errors.Is(err, store.ErrLocked) {
			t.Errorf("two nodes in one folder: got %v, want ErrLocked", err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if a, err = newKept(t, scheme, key, dir); err != nil {
			t.Fatal(err)
		}
		if n := len(a.Routes()); n != 2 {
			t.Errorf("started anew the node knows %v, want b and c", a.Routes())
		}
		for deadline := time.Now().Add(20 * time.Second); scheme != "tcp" && len(links(a, b.ID())) != 1; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("started anew the node has no link with the peer that was added")
			}
		}
		for _, name := range []string{"b", "c"} {
			if _, err := a.Dispatch(t.Context(), name, protocol.Message{Operation: "x"}); err != nil {
				t.Errorf("%s is not reached by a node that was started anew: %v", name, err)
			}
		}
		if err := a.Delete("b"); err != nil {
			t.Fatal(err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if a, err = newKept(t, scheme, key, dir); err != nil {
			t.Fatal(err)
		}
		if r := a.Routes(); len(r) != 1 || r[0].Name != "c" {
			t.Errorf("after Delete and a restart the node knows %v, want c alone", r)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}

		path := filepath.Join(dir, "routes.db")
		if err := os.WriteFile(path, []byte("not a table"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := newKept(t, scheme, key, dir); !errors.Is(err, store.ErrForeign) || !strings.Contains(err.Error(), path) {
			t.Errorf("a file that is no table: got %v, want ErrForeign and the path", err)
		}
	})
}
