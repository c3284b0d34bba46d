package main

import (
	"context"
	"errors"
	"net"
	"sync"

	"storj.io/drpc"
	"storj.io/drpc/drpcconn"
	"storj.io/drpc/drpcserver"

	"github.com/Blockchain-CN/pheromones/bench/harness"
)

// drpcUnary is a unary call of drpc over TLS. A connection carries one at a time, so there are as many connections as calls at once;
// they are kept, as drpc's pool does.
func drpcUnary() harness.Peer {
	return harness.Peer{Name: "drpc", Calls: true, Resumes: true, New: newDRPC}
}

// drpcStream is a stream of messages, both ways, of drpc: a connection each, which is kept for the next.
func drpcStream() harness.Peer {
	return harness.Peer{Name: "drpc-stream", Resumes: true, New: newDRPC}
}

const (
	drpcCall = "/bench.Bench/Call"
	drpcFlow = "/bench.Bench/Flow"
)

type drpcNetwork struct{ *listener }

func newDRPC(o harness.Options, serve func(harness.Stream)) (harness.Network, error) {
	client, server, err := harness.TLS(o, "drpc")
	if err != nil {
		return nil, err
	}
	s := drpcserver.New(drpcHandler{serve, harness.NewAnswer()})
	l, err := listen(client, server, func(c net.Conn) { s.ServeOne(context.Background(), c) })
	return drpcNetwork{l}, err
}

type drpcHandler struct {
	serve  func(harness.Stream)
	answer harness.Answer
}

func (h drpcHandler) HandleRPC(st drpc.Stream, rpc string) error {
	if rpc == drpcFlow {
		h.serve(&flow{receive: func(m *message) error { return st.MsgRecv(m, raw{}) }, send: func(m *message) error { return st.MsgSend(m, raw{}) }})
		return st.CloseSend()
	}
	var in message
	if err := st.MsgRecv(&in, raw{}); err != nil {
		return err
	}
	reply, err := h.answer(in.data)
	if err != nil {
		return err
	}
	return st.MsgSend(&message{reply}, raw{})
}

func (n drpcNetwork) Dial(ctx context.Context) (harness.Conn, error) {
	c := &drpcConns{dial: n.dial}
	first, err := c.take(ctx) // so that the handshake is Dial's
	if err != nil {
		return nil, err
	}
	c.put(first)
	return c, nil
}

// drpcConns are the connections that are open towards the listener.
type drpcConns struct {
	dial func(context.Context) (net.Conn, error)

	mu   sync.Mutex
	free []drpcConn
	last bool // whether the last dial has resumed a session
}

type drpcConn struct {
	*drpcconn.Conn
	resumed bool
}

// take returns a connection that nobody uses; a new one if there is none.
func (c *drpcConns) take(ctx context.Context) (drpcConn, error) {
	c.mu.Lock()
	if n := len(c.free); n > 0 {
		conn := c.free[n-1]
		c.free = c.free[:n-1]
		c.mu.Unlock()
		return conn, nil
	}
	c.mu.Unlock()
	t, err := c.dial(ctx)
	if err != nil {
		return drpcConn{}, err
	}
	return drpcConn{drpcconn.New(t), resumed{t}.Resumed()}, nil
}

func (c *drpcConns) put(conn drpcConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free = append(c.free, conn)
	c.last = conn.resumed
}

func (c *drpcConns) Resumed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

func (c *drpcConns) Call(ctx context.Context, request []byte) ([]byte, error) {
	conn, err := c.take(ctx)
	if err != nil {
		return nil, err
	}
	defer c.put(conn)
	var reply message
	err = conn.Invoke(ctx, drpcCall, raw{}, &message{request}, &reply)
	return reply.data, err
}

func (c *drpcConns) Open(ctx context.Context) (harness.Stream, error) {
	conn, err := c.take(ctx)
	if err != nil {
		return nil, err
	}
	st, err := conn.NewStream(ctx, drpcFlow, raw{})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &flow{
		receive: func(m *message) error { return st.MsgRecv(m, raw{}) }, send: func(m *message) error { return st.MsgSend(m, raw{}) },
		endWrite: st.CloseSend, end: func() { st.Close(); c.put(conn) },
	}, nil
}

func (c *drpcConns) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.free {
		conn.Close()
	}
	return nil
}
