package quic

import (
	"context"
	"errors"
	"io"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

func newKey(t testing.TB) identity.Key {
	t.Helper()
	key, err := identity.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newTransport(t testing.TB, key identity.Key, cfg *Config) *Transport {
	t.Helper()
	tr, err := New(key, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return tr
}

func newListener(t testing.TB, tr *Transport, hostPort string) *Listener {
	t.Helper()
	l, err := tr.Listen(t.Context(), transport.Addr{Scheme: scheme, HostPort: hostPort})
	if err != nil {
		t.Fatal(err)
	}
	return l.(*Listener)
}

// newContext returns a context that ends before the test's watchdog does.
func newContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func dial(t testing.TB, tr *Transport, addr transport.Addr) *Conn {
	t.Helper()
	c, err := tr.Dial(newContext(t), addr)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*Conn)
}

func accept(t testing.TB, l *Listener) *Conn {
	t.Helper()
	c, err := l.Accept(newContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return c.(*Conn)
}

// pair returns a connection from a new transport to another one's listener, and its other end.
func pair(t testing.TB, cfg *Config) (dialled, accepted *Conn) {
	t.Helper()
	l := newListener(t, newTransport(t, newKey(t), cfg), "127.0.0.1:0")
	dialled = dial(t, newTransport(t, newKey(t), cfg), l.Addr())
	return dialled, accept(t, l)
}

// exchange sends a few bytes over a new stream and back.
func exchange(t testing.TB, from, to *Conn) {
	t.Helper()
	ctx := newContext(t)
	a, err := from.OpenStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	b, err := to.AcceptStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	buf := make([]byte, 4)
	if _, err := io.ReadFull(b, buf); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Write(buf); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(a, buf); err != nil {
		t.Fatal(err)
	}
	if string(buf) != "ping" {
		t.Fatalf("read %q, want %q", buf, "ping")
	}
}

// await returns why a connection ends.
func await(t testing.TB, c *Conn) error {
	t.Helper()
	select {
	case <-c.Context().Done():
		return context.Cause(c.Context())
	case <-newContext(t).Done():
		t.Fatal("the connection did not end")
		return nil
	}
}

func wantClose(t testing.TB, got error, want transport.CloseError) {
	t.Helper()
	var e *transport.CloseError
	if !errors.As(got, &e) || *e != want {
		t.Errorf("got %v, want %v", got, &want)
	}
}

func TestConfig(t *testing.T) {
	key := newKey(t)
	for _, tt := range []struct {
		name string
		cfg  Config
		ok   bool
	}{
		{"zero", Config{}, true},
		{"no keep-alive", Config{KeepAlive: -1}, true},
		{"small", Config{HandshakeTimeout: 1, IdleTimeout: 1, MaxHandshakes: 1, MaxStreams: 1, AcceptBacklog: 1, MaxSessions: 1}, true},
		{"huge times", Config{HandshakeTimeout: math.MaxInt64, IdleTimeout: math.MaxInt64, KeepAlive: math.MaxInt64}, true},
		{"negative time", Config{IdleTimeout: -1}, false},
		{"negative number", Config{MaxStreams: -1}, false},
		{"negative window", Config{ConnWindow: -1}, false},
		{"tiny window", Config{StreamWindow: 1}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := tt.cfg
			tr, err := New(key, &tt.cfg)
			if (err == nil) != tt.ok {
				t.Errorf("New: %v, want success %v", err, tt.ok)
			}
			if !reflect.DeepEqual(tt.cfg, before) {
				t.Errorf("New wrote to the caller's Config: %+v", tt.cfg)
			}
			if tr == nil {
				return
			}
			defer tr.Close()
			if tt.cfg.IdleTimeout != 1 {
				l := newListener(t, tr, "127.0.0.1:0")
				exchange(t, dial(t, tr, l.Addr()), accept(t, l))
			}
		})
	}
	if _, err := New(identity.Key{}, nil); err == nil {
		t.Error("New accepted the zero Key")
	}
	conf, err := (*Config)(nil).withDefaults()
	if err != nil || conf.MaxStreams != 1024 || conf.KeepAlive != 15*time.Second || conf.IdleTimeout != 30*time.Second {
		t.Errorf("the defaults are %+v, %v", conf, err)
	}
	if off, _ := (&Config{KeepAlive: -1}).withDefaults(); off.KeepAlive != 0 {
		t.Errorf("a negative KeepAlive is %v, want none", off.KeepAlive)
	}
}
