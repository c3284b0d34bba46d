package protocol_test

import (
	"context"
	"os"
	"sync"
	"testing"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/internal/leak"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

// link is a connection between two peers in memory.
type link struct {
	ours, theirs transport.Conn
	us, them     identity.ID
}

func newLink(t testing.TB) *link {
	t.Helper()
	network := new(mem.Network)
	var ts [2]*mem.Transport
	for i := range ts {
		key, err := identity.Generate()
		if err != nil {
			t.Fatal(err)
		}
		if ts[i], err = mem.New(key, &mem.Config{Network: network}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ts[i].Close() })
	}
	l, err := ts[1].Listen(t.Context(), transport.Addr{Scheme: mem.Scheme, HostPort: "them:0"})
	if err != nil {
		t.Fatal(err)
	}
	ours, err := ts[0].Dial(t.Context(), l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := l.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &link{ours, theirs, ours.Info().LocalPeer, ours.Info().RemotePeer}
}

// open opens a stream on our side.
func (l *link) open(t testing.TB) transport.Stream {
	t.Helper()
	s, err := l.ours.OpenStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// serve serves what comes on their side until the test ends; what Serve returns goes to the channel.
func (l *link) serve(t testing.TB, h protocol.Handler, cfg *protocol.Config) <-chan error {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1000)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			s, err := l.theirs.AcceptStream(ctx)
			if err != nil {
				return
			}
			wg.Go(func() {
				name, err := protocol.ReadService(s)
				if err != nil || name != protocol.MessageService {
					s.Reset(transport.CodeUnknownService)
				} else {
					err = protocol.Serve(ctx, s, l.us, h, cfg)
				}
				select {
				case served <- err:
				default: // a benchmark, which does not look
				}
			})
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return served
}

// raw opens a stream on our side and writes the service header and b.
func (l *link) raw(t testing.TB, b []byte) transport.Stream {
	t.Helper()
	s := l.open(t)
	head, err := protocol.AppendService(nil, protocol.MessageService)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(append(head, b...)); err != nil {
		t.Fatal(err)
	}
	return s
}

// accept returns the stream that we open, on their side, behind its header.
func (l *link) accept(t testing.TB) transport.Stream {
	t.Helper()
	s, err := l.theirs.AcceptStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if name, err := protocol.ReadService(s); err != nil || name != protocol.MessageService {
		t.Fatalf("the stream's service is %q, %v", name, err)
	}
	return s
}

func frame(t testing.TB, f protocol.Frame) []byte {
	t.Helper()
	b, err := f.Append(nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func request(operation string, data string) protocol.Frame {
	return protocol.Frame{Kind: protocol.KindMessage, Message: protocol.Message{ID: protocol.NewMessageID(), Name: "raw", Operation: operation, Data: []byte(data)}}
}

func echo(_ context.Context, m protocol.Message) (protocol.Message, error) { return m, nil }
