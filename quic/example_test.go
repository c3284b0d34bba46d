package quic_test

import (
	"context"
	"fmt"
	"io"
	"log"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/transport"
)

func Example() {
	ctx := context.Background()
	must := func(err error) {
		if err != nil {
			log.Fatal(err)
		}
	}

	key, err := identity.Generate()
	must(err)
	server, err := quic.New(key, nil)
	must(err)
	defer server.Close()
	l, err := server.Listen(ctx, transport.Addr{Scheme: "quic", HostPort: "127.0.0.1:0"})
	must(err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept(ctx)
		must(err)
		s, err := c.AcceptStream(ctx)
		must(err)
		io.Copy(s, s)
		s.Close()
	}()

	key, err = identity.Generate()
	must(err)
	client, err := quic.New(key, nil)
	must(err)
	defer client.Close()
	c, err := client.Dial(ctx, l.Addr())
	must(err)
	s, err := c.OpenStream(ctx)
	must(err)
	fmt.Fprint(s, "hello")
	must(s.CloseWrite())
	reply, err := io.ReadAll(s)
	must(err)
	<-done
	fmt.Printf("%s from the peer we meant: %v\n", reply, c.Info().RemotePeer == l.Addr().Peer)
	// Output: hello from the peer we meant: true
}
