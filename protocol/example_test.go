package protocol_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

// connect returns a stream to a peer that serves what is opened to it with h, and the peer's ID.
func connect(ctx context.Context, h protocol.Handler) (s transport.Stream, peer identity.ID, done func()) {
	network := new(mem.Network)
	var ts [2]*mem.Transport
	for i := range ts {
		key, _ := identity.Generate()
		ts[i], _ = mem.New(key, &mem.Config{Network: network})
	}
	l, err := ts[1].Listen(ctx, transport.Addr{Scheme: mem.Scheme, HostPort: "bob:1"})
	if err != nil {
		panic(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn, err := l.Accept(ctx)
		if err != nil {
			return
		}
		s, err := conn.AcceptStream(ctx)
		if err != nil {
			return
		}
		if name, err := protocol.ReadService(s); err != nil || name != protocol.MessageService {
			s.Reset(transport.CodeUnknownService)
			return
		}
		protocol.Serve(ctx, s, conn.Info().RemotePeer, h, &protocol.Config{Name: "bob"})
	}()
	conn, err := ts[0].Dial(ctx, l.Addr())
	if err != nil {
		panic(err)
	}
	if s, err = conn.OpenStream(ctx); err != nil {
		panic(err)
	}
	return s, conn.Info().RemotePeer, func() { ts[0].Close(); ts[1].Close(); <-served }
}

func ExampleExchange() {
	ctx := context.Background()
	s, peer, done := connect(ctx, protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		return protocol.Message{Operation: "hello", Data: []byte("hello, " + m.Name)}, nil
	}))
	defer done()
	reply, err := protocol.Exchange(ctx, s, peer, protocol.Message{Operation: "greet"}, &protocol.Config{Name: "alice"})
	fmt.Printf("%s says %q %v\n", reply.Name, reply.Data, err)
	// Output: bob says "hello, alice" <nil>
}

func ExampleExchange_error() {
	ctx := context.Background()
	s, peer, done := connect(ctx, protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		return protocol.Message{}, fmt.Errorf("%w: not on a Sunday", protocol.CodeRefused)
	}))
	defer done()
	_, err := protocol.Exchange(ctx, s, peer, protocol.Message{Operation: "greet"}, nil)
	var remote *protocol.RemoteError
	if errors.As(err, &remote) {
		fmt.Println(remote.Text)
	}
	fmt.Println("refused:", errors.Is(err, protocol.CodeRefused))
	fmt.Println("not executed:", protocol.NotExecuted(err))
	// Output:
	// not on a Sunday
	// refused: true
	// not executed: true
}

// One handler serves both sides: each answers a number with the next, until five.
func ExampleConverse() {
	count := func(who string) protocol.Handler {
		return protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
			n, err := strconv.Atoi(string(m.Data))
			if err != nil {
				return protocol.Message{}, fmt.Errorf("%w: %q is no number", protocol.CodeMalformed, m.Data)
			}
			fmt.Println(who, "hears", n)
			if n == 5 {
				return protocol.Message{}, nil
			}
			return protocol.Message{Operation: "count", Data: []byte(strconv.Itoa(n + 1))}, nil
		})
	}
	ctx := context.Background()
	s, peer, done := connect(ctx, count("bob"))
	defer done()
	err := protocol.Converse(ctx, s, peer, protocol.Message{Operation: "count", Data: []byte("1")}, count("alice"), nil)
	fmt.Println(err)
	// Output:
	// bob hears 1
	// alice hears 2
	// bob hears 3
	// alice hears 4
	// bob hears 5
	// <nil>
}

// Where each exchange needs a connection of its own the conversation is the same.
func ExampleConverseBy() {
	ctx := context.Background()
	exchange := func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
		s, peer, done := connect(ctx, protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
			return protocol.Message{Operation: "echo", Data: append(m.Data, '!')}, nil
		}))
		defer done()
		return protocol.Exchange(ctx, s, peer, m, nil)
	}
	err := protocol.ConverseBy(ctx, exchange, protocol.Message{Operation: "say", Data: []byte("hi")}, protocol.HandlerFunc(
		func(_ context.Context, m protocol.Message) (protocol.Message, error) {
			fmt.Printf("%s\n", m.Data)
			if len(m.Data) > 4 {
				return protocol.Message{}, nil
			}
			return protocol.Message{Operation: "say", Data: m.Data}, nil
		}), nil)
	fmt.Println(err)
	// Output:
	// hi!
	// hi!!
	// hi!!!
	// <nil>
}

func ExampleTable() {
	var table protocol.Table
	err := table.Register("ping", protocol.HandlerFunc(func(context.Context, protocol.Message) (protocol.Message, error) {
		return protocol.Message{Operation: "pong"}, nil
	}))
	fmt.Println(err)
	for _, operation := range []string{"ping", "dance"} {
		m, err := table.Handle(context.Background(), protocol.Message{Operation: operation})
		fmt.Printf("%s %q %v\n", m.Operation, m.Data, err)
	}
	// Output:
	// <nil>
	// pong "" <nil>
	// unknownop "dance" <nil>
}

func ExampleAppendService() {
	b, err := protocol.AppendService(nil, protocol.MessageService)
	fmt.Printf("%q %v\n", b, err)
	// Output: "\x12pheromones.message" <nil>
}
