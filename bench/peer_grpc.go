package main

import (
	"context"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/Blockchain-CN/pheromones/bench/harness"
)

// grpcUnary is a unary call of grpc-go over mutual TLS, configured by default, but for messages that are bytes.
func grpcUnary() harness.Peer {
	return harness.Peer{Name: "grpc-unary", Calls: true, Resumes: true, New: newGRPC}
}

// grpcStream is a stream of messages, both ways, of grpc-go.
func grpcStream() harness.Peer {
	return harness.Peer{Name: "grpc-stream", Resumes: true, New: newGRPC}
}

const (
	grpcCall = "/bench.Bench/Call"
	grpcFlow = "/bench.Bench/Flow"
)

type grpcNetwork struct {
	addr    string
	options []grpc.DialOption
	server  *grpc.Server
	wait    sync.WaitGroup
}

func newGRPC(o harness.Options, serve func(harness.Stream)) (harness.Network, error) {
	client, server, err := harness.TLS(o, "h2")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &grpcNetwork{
		addr: "passthrough:///" + l.Addr().String(),
		options: []grpc.DialOption{
			grpc.WithTransportCredentials(credentials.NewTLS(client)), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(grpcCodec{})),
		},
		server: grpc.NewServer(grpc.Creds(credentials.NewTLS(server)), grpc.ForceServerCodecV2(grpcCodec{})),
	}
	n.server.RegisterService(grpcService(serve), nil)
	n.wait.Go(func() { n.server.Serve(l) })
	return n, nil
}

func grpcService(serve func(harness.Stream)) *grpc.ServiceDesc {
	answer := harness.NewAnswer()
	return &grpc.ServiceDesc{
		ServiceName: "bench.Bench",
		Methods: []grpc.MethodDesc{{
			MethodName: "Call",
			Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				var in message
				if err := decode(&in); err != nil {
					return nil, err
				}
				reply, err := answer(in.data)
				return &message{reply}, err
			},
		}},
		Streams: []grpc.StreamDesc{{
			StreamName: "Flow", ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, st grpc.ServerStream) error {
				serve(&flow{receive: func(m *message) error { return st.RecvMsg(m) }, send: func(m *message) error { return st.SendMsg(m) }})
				return nil
			},
		}},
	}
}

func (n *grpcNetwork) Dial(context.Context) (harness.Conn, error) {
	c, err := grpc.NewClient(n.addr, n.options...)
	if err != nil {
		return nil, err
	}
	return grpcConn{c}, nil
}

func (n *grpcNetwork) Close() error {
	n.server.Stop()
	n.wait.Wait()
	return nil
}

type grpcConn struct{ *grpc.ClientConn }

func (c grpcConn) Call(ctx context.Context, request []byte) ([]byte, error) {
	var reply message
	err := c.Invoke(ctx, grpcCall, &message{request}, &reply)
	return reply.data, err
}

func (c grpcConn) Open(ctx context.Context) (harness.Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	st, err := c.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, grpcFlow)
	if err != nil {
		cancel()
		return nil, err
	}
	return &flow{
		receive: func(m *message) error { return st.RecvMsg(m) }, send: func(m *message) error { return st.SendMsg(m) },
		endWrite: st.CloseSend, end: cancel,
	}, nil
}
