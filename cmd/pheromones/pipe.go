package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

func (p *program) pipeCommand() *cobra.Command {
	var flags clientFlags
	var listen string
	cmd := &cobra.Command{
		Use:   "pipe [flags] ADDR SERVICE",
		Short: "Join standard input and output, or a local port, to a service of a node",
		Long: `Connects to a service of the node at ADDR and copies standard input to it and what comes from it to standard output. The
end of standard input is told to the service, and pipe ends when both sides have ended; if standard input is a terminal,
when the service has.

With --listen it takes connections at a local TCP address instead, as many at once as there are, and carries each to the
service, until a signal ends it. It prints where it listens: port 0 is any free one.`,
		Example: `  pheromones pipe quic://<id>@192.0.2.7:4001 store < backup.tar
  pheromones pipe --listen 127.0.0.1:8081 quic://<id>@192.0.2.7:4001 web &
  curl http://127.0.0.1:8081/
  ssh -o ProxyCommand="pheromones pipe mux://<id>@192.0.2.7:4002 ssh" host
  pheromones pipe --join quic://<id>@192.0.2.7:4001 <id of another> web`,
		Args: wantArgs("ADDR", "SERVICE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := protocol.AppendService(nil, args[1]); err != nil {
				return &exitError{exitUsage, err}
			}
			if listen != "" {
				return p.pipeListen(cmd.Context(), &flags, listen, args[0], args[1])
			}
			return p.pipe(cmd.Context(), &flags, args[0], args[1])
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "", "the local `host:port` to take connections at")
	flags.add(cmd, "connecting")
	return cmd
}

// dialService connects to a service within the time-out of the flags.
func dialService(ctx context.Context, flags *clientFlags, c *client, service string) (transport.Stream, error) {
	ctx, cancel := flags.bound(ctx)
	defer cancel()
	s, err := c.Dial(ctx, c.to, service)
	if err != nil {
		return nil, err
	}
	return s.(transport.Stream), nil
}

// serviceError makes what a service's stream has ended with say what that means.
func serviceError(err error, service string) error {
	var reset *transport.ResetError
	if !errors.As(err, &reset) || !reset.Remote {
		return err
	}
	switch reset.Code {
	case transport.CodeUnknownService:
		return fmt.Errorf("the node has no service %q", service)
	case transport.CodeRefused:
		return fmt.Errorf("the service %q is there, but what it leads to is not", service)
	case transport.CodeLimit:
		return fmt.Errorf("the service %q has no room at the moment", service)
	}
	return err
}

// pipe joins standard input and output to a service. A read of standard input, or a write to standard output, that is under
// way when it returns is left behind: nothing can end it, and the process is about to end.
func (p *program) pipe(ctx context.Context, flags *clientFlags, addr, service string) error {
	c, err := p.newClient(ctx, flags, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := dialService(ctx, flags, c, service)
	if err != nil {
		return err
	}
	p.unproved(c.addr, s.RemoteAddr().(transport.Addr).Peer)
	bar := p.newMeter()
	defer bar.finish()
	sent, received := make(chan error, 1), make(chan error, 1)
	go func() { sent <- upload(s, p.in, bar) }()
	go func() { received <- download(p.out, s, bar) }()

	var sending, receiving error
	sentFirst := false
	for up, down := true, true; up || down; {
		select {
		case sending = <-sent:
			up, sentFirst = false, down
			sent = nil
			// What cannot be sent does not end the other direction: the service may have closed, and its last words are coming.
		case receiving = <-received:
			down = false
			received = nil
			if receiving != nil || isTerminal(p.in) {
				up = false
			}
		case <-ctx.Done():
			s.Reset(transport.CodeCancelled)
			return context.Cause(ctx)
		}
	}
	if sending == nil && receiving == nil {
		s.Close()
		linger(ctx, c, sentFirst)
	}
	switch {
	case errors.Is(receiving, net.ErrClosed) && sending != nil:
		return sending // which is why this side has reset the stream
	case receiving != nil:
		return serviceError(receiving, service)
	case errors.Is(sending, transport.CodeClosed):
		return errors.New("the service has ended before it had taken all of the input")
	}
	return serviceError(sending, service)
}

// linger gives what was written last the time to arrive, since closing the link would drop it. A service that answers has
// read everything, but one that ended its own side early may still be reading, and nothing tells when it is done.
func linger(ctx context.Context, c *client, sentFirst bool) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c.Ping(ctx, c.to)
	if !sentFirst {
		<-ctx.Done()
	}
}

// upload copies standard input to the service.
func upload(s transport.Stream, in io.Reader, bar *meter) error {
	buf := make([]byte, copyBuffer)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			if _, err := s.Write(buf[:n]); err != nil {
				return err
			}
			bar.add(n)
		}
		switch {
		case err == io.EOF:
			return s.CloseWrite()
		case err != nil:
			s.Reset(transport.CodeCancelled)
			return fmt.Errorf("reading standard input: %w", err)
		}
	}
}

// download copies what the service sends to standard output.
func download(out io.Writer, s transport.Stream, bar *meter) error {
	buf := make([]byte, copyBuffer)
	for {
		n, err := s.Read(buf)
		if n > 0 {
			if _, err := out.Write(buf[:n]); err != nil {
				s.Reset(transport.CodeCancelled)
				return fmt.Errorf("writing to standard output: %w", err)
			}
			bar.add(n)
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// pipeListen carries the connections that a local port takes to a service, until ctx ends.
func (p *program) pipeListen(ctx context.Context, flags *clientFlags, listen, addr, service string) error {
	if _, port, err := net.SplitHostPort(listen); err != nil || port == "" {
		return usagef("--listen %q: want host:port", listen)
	}
	c, err := p.newClient(ctx, flags, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := p.reachable(ctx, flags, c); err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	p.line("%s", l.Addr())
	if err := p.out.failed(); err != nil {
		return err
	}
	f := &forwarder{
		dial:    func(ctx context.Context) (conn, error) { return dialService(ctx, flags, c, service) },
		refused: func(from net.Addr, err error) { p.note("a connection from %s: %s", from, oneLine(err)) },
		ended: func(from net.Addr, err error) {
			if err != nil && ctx.Err() == nil {
				p.note("a connection from %s broke off: %s", from, oneLine(serviceError(err, service)))
			}
		},
	}
	return f.serve(ctx, l)
}

// reachable finds out whether the node is there, and says who it is if its address does not.
func (p *program) reachable(ctx context.Context, flags *clientFlags, c *client) error {
	ctx, cancel := flags.bound(ctx)
	defer cancel()
	if _, err := c.Ping(ctx, c.to); err != nil {
		return err
	}
	if r, ok := c.route(); ok {
		p.unproved(c.addr, r.ID)
	}
	return nil
}
