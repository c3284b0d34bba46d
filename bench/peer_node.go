package main

import (
	"context"
	"errors"

	pheromones "github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/bench/harness"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

// nodes are whole nodes, with the default configuration: a call is a Dispatch, which the other side executes at most once.
func nodes() []harness.Peer {
	peer := func(name string, newTransport maker) harness.Peer {
		return harness.Peer{
			Name: name, Calls: true, DialsOnce: true,
			New: func(_ harness.Options, _ func(harness.Stream)) (harness.Network, error) {
				return newNodes(newTransport)
			},
		}
	}
	return []harness.Peer{peer("node-tcp", newTCP), peer("node-mux", newMux), peer("node-quic", newQUIC)}
}

type nodeNetwork struct{ client, server *pheromones.Node }

func newNodes(newTransport maker) (_ harness.Network, err error) {
	var n nodeNetwork
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	if n.client, err = newNode(newTransport, nil); err != nil {
		return nil, err
	}
	if n.server, err = newNode(newTransport, handler(harness.NewAnswer())); err != nil {
		return nil, err
	}
	return n, nil
}

// handler answers dispatches.
func handler(answer harness.Answer) protocol.Handler {
	return protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		reply, err := answer(m.Data)
		return protocol.Message{Operation: "reply", Data: reply}, err
	})
}

// newNode returns a node that listens on loopback.
func newNode(newTransport maker, h protocol.Handler) (*pheromones.Node, error) {
	key, err := identity.Generate()
	if err != nil {
		return nil, err
	}
	t, err := newTransport(key, harness.Options{})
	if err != nil {
		return nil, err
	}
	n, err := pheromones.New(pheromones.Config{Transports: []transport.Transport{t}, Handler: h})
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	if err := n.Start(context.Background(), t.Traits().Scheme+"://127.0.0.1:0"); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n nodeNetwork) Dial(ctx context.Context) (harness.Conn, error) {
	id, err := n.client.Add(ctx, n.server.Addrs()[0].String())
	if err != nil {
		return nil, err
	}
	return nodeConn{from: n.client, to: id.String()}, nil
}

func (n nodeNetwork) Close() error {
	var errs []error
	for _, node := range []*pheromones.Node{n.client, n.server} {
		if node != nil {
			errs = append(errs, node.Close())
		}
	}
	return errors.Join(errs...)
}

type nodeConn struct {
	harness.NoStreams
	from *pheromones.Node
	to   string
}

func (c nodeConn) Call(ctx context.Context, request []byte) ([]byte, error) {
	reply, err := c.from.Dispatch(ctx, c.to, protocol.Message{Operation: "request", Data: request})
	return reply.Data, err
}

// Close leaves it to the nodes' end.
func (c nodeConn) Close() error { return nil }
