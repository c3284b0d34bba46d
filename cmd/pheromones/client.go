package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/mux"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/tcp"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

// schemes returns the schemes of the transports this command has.
func schemes() []string { return []string{tcp.Scheme, mux.Scheme, quicScheme, mem.Scheme} }

const quicScheme = "quic"

// newTransport makes the transport of a scheme.
func newTransport(scheme string, key identity.Key) (transport.Transport, error) {
	switch scheme {
	case tcp.Scheme:
		return tcp.New(key, nil)
	case mux.Scheme:
		return mux.New(key, nil)
	case quicScheme:
		return quic.New(key, nil)
	case mem.Scheme:
		return mem.New(key, nil)
	}
	return nil, fmt.Errorf("no transport has the scheme %q; there are %s", scheme, strings.Join(schemes(), ", "))
}

// parseAddr reads an address of the command line, whose scheme must be one of ours.
func parseAddr(s string) (transport.Addr, error) {
	a, err := transport.ParseAddr(s)
	if err != nil {
		return a, &exitError{exitUsage, err}
	}
	if !slices.Contains(schemes(), a.Scheme) {
		return a, usagef("%s: no transport has the scheme %q; there are %s", s, a.Scheme, strings.Join(schemes(), ", "))
	}
	return a, nil
}

// client is a node for the time of one command, which listens nowhere and has the one transport of the address it talks to.
type client struct {
	*pheromones.Node
	addr transport.Addr
	wait func() // for what follows the node's end
}

// Close closes the node and returns when everything of it has ended.
func (c *client) Close() {
	c.Node.Close() // what it could say, nobody can act upon
	c.wait()
}

// clientFlags are the flags of the commands that talk to a node.
type clientFlags struct {
	key     string
	timeout time.Duration
}

func (f *clientFlags) add(cmd *cobra.Command, bounds string) {
	cmd.Flags().StringVar(&f.key, "key", "", "the `file` of the key to use (default: a fresh key, used once)")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 10*time.Second, "how long "+bounds+" may take")
}

// bound returns ctx with the time-out of the flags.
func (f *clientFlags) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, f.timeout, fmt.Errorf("%w (%v)", context.DeadlineExceeded, f.timeout))
}

// newClient makes the node with which to talk to whoever is at addr. Its user closes it.
func (p *program) newClient(f *clientFlags, addr string) (*client, error) {
	a, err := parseAddr(addr)
	if err != nil {
		return nil, err
	}
	if f.timeout <= 0 {
		return nil, usagef("--timeout %v: want more than zero", f.timeout)
	}
	key, err := clientKey(f.key)
	if err != nil {
		return nil, err
	}
	t, err := newTransport(a.Scheme, key)
	if err != nil {
		return nil, err
	}
	n, err := pheromones.New(pheromones.Config{
		Transports: []transport.Transport{t}, DialTimeout: f.timeout, Logger: p.logger(),
	})
	if err != nil {
		t.Close()
		return nil, err
	}
	return &client{n, a, p.follow(n)}, nil
}

// unproved tells who has answered at an address without an ID, so that it can be asked for by its ID the next time.
func (p *program) unproved(addr transport.Addr, who identity.ID) {
	if addr.Peer.IsZero() {
		addr.Peer = who
		p.note("whoever answered is not checked against an ID; to make sure of this one, use %s", addr)
	}
}
