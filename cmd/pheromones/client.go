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
	"github.com/Blockchain-CN/pheromones/router"
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

// client is a node for the time of one command. It has the one transport of the address it talks to and listens nowhere; or, if it
// joins nodes, all that relays need.
type client struct {
	*pheromones.Node
	to     string         // whom it talks to: an address, or an ID or name
	addr   transport.Addr // the address; zero if to is none
	joined bool
	path   string // where its link led to at the last ping
	wait   func() // for what follows the node's end
}

// Close closes the node and returns when everything of it has ended. Nodes that were joined are told.
func (c *client) Close() {
	if c.joined {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		c.Shutdown(ctx)
	}
	c.Node.Close() // what it could say, nobody can act upon
	c.wait()
}

// route returns what the node knows of the peer it talks to, once it has.
func (c *client) route() (router.Route, bool) {
	routes := c.Routes()
	if len(routes) == 1 && !c.joined {
		return routes[0], true
	}
	i := slices.IndexFunc(routes, func(r router.Route) bool {
		switch {
		case !c.addr.Peer.IsZero():
			return r.ID == c.addr.Peer
		case !c.addr.IsZero():
			return slices.ContainsFunc(r.Addrs, func(a transport.Addr) bool { return a.Scheme == c.addr.Scheme && a.HostPort == c.addr.HostPort })
		}
		return r.ID.String() == c.to || r.Name == c.to
	})
	if i < 0 {
		return router.Route{}, false
	}
	return routes[i], true
}

// clientFlags are the flags of the commands that talk to a node.
type clientFlags struct {
	key     string
	timeout time.Duration
	joinFlags
}

func (f *clientFlags) add(cmd *cobra.Command, bounds string) {
	cmd.Flags().StringVar(&f.key, "key", "", "the `file` of the key to use (default: a fresh key, used once)")
	cmd.Flags().DurationVar(&f.timeout, "timeout", 10*time.Second, "how long "+bounds+" may take")
	f.joinFlags.add(cmd)
}

// joinFlags are the flags that say which nodes to know at start, and whether to go through them.
type joinFlags struct {
	join []string
	path string
}

func (f *joinFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.join, "join", nil, "the `address` of a node to know at start, by which others are found and reached; may be repeated")
	cmd.Flags().StringVar(&f.path, "path", "any", "`which` ways to take to peers that are known by their ID: any, direct or relay")
}

// apply puts what the flags say into cfg, and adds the schemes that it takes.
func (f *joinFlags) apply(cfg *pheromones.Config, schemes []string) ([]string, error) {
	for _, s := range f.join {
		a, err := parseAddr(s)
		if err != nil {
			return nil, err
		}
		cfg.Join = append(cfg.Join, a)
		if !slices.Contains(schemes, a.Scheme) {
			schemes = append(schemes, a.Scheme)
		}
	}
	switch f.path {
	case "any":
	case "direct":
		cfg.Path = pheromones.PathDirectOnly
	case "relay":
		cfg.Path = pheromones.PathRelayOnly
	default:
		return nil, usagef("--path %q: want any, direct or relay", f.path)
	}
	return schemes, nil
}

// bound returns ctx with the time-out of the flags.
func (f *clientFlags) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, f.timeout, fmt.Errorf("%w (%v)", context.DeadlineExceeded, f.timeout))
}

// newClient makes the node with which to talk to a peer: at an address or, if nodes are joined, by its ID or name. Its user closes it.
func (p *program) newClient(ctx context.Context, f *clientFlags, to string) (*client, error) {
	c := &client{to: to, joined: len(f.join) > 0}
	var schemes []string
	var err error
	if _, bad := transport.ParseAddr(to); !c.joined || bad == nil || strings.Contains(to, "://") {
		if c.addr, err = parseAddr(to); err != nil {
			if _, bad := identity.ParseID(to); bad == nil {
				err = usagef("%s is an ID: name a node that leads to it by --join, or give its address", to)
			}
			return nil, err
		}
		c.to = c.addr.String()
		schemes = append(schemes, c.addr.Scheme)
	}
	if f.timeout <= 0 {
		return nil, usagef("--timeout %v: want more than zero", f.timeout)
	}
	cfg := pheromones.Config{DialTimeout: f.timeout, Logger: p.logger(), NoReserve: true}
	if c.joined {
		schemes = append(schemes, without([]string{quicScheme, mux.Scheme}, schemes)...)
	}
	if schemes, err = f.apply(&cfg, schemes); err != nil {
		return nil, err
	}
	key, err := clientKey(f.key)
	if err != nil {
		return nil, err
	}
	if cfg.Transports, err = newTransports(schemes, key); err != nil {
		return nil, err
	}
	if c.Node, err = pheromones.New(cfg); err != nil {
		closeAll(cfg.Transports)
		return nil, err
	}
	c.wait = p.follow(c.Node)
	if c.joined {
		// Packets through relays, and what comes from the peer directly, need a port; connections of TCP another.
		if err := c.Start(ctx, quicScheme+"://0.0.0.0:0", mux.Scheme+"://0.0.0.0:0"); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// without returns those of list that are not in other.
func without(list, other []string) []string {
	return slices.DeleteFunc(list, func(s string) bool { return slices.Contains(other, s) })
}

// newTransports makes a transport of each scheme.
func newTransports(schemes []string, key identity.Key) ([]transport.Transport, error) {
	var made []transport.Transport
	for _, scheme := range schemes {
		t, err := newTransport(scheme, key)
		if err != nil {
			closeAll(made)
			return nil, err
		}
		made = append(made, t)
	}
	return made, nil
}

// unproved tells who has answered at an address without an ID, so that it can be asked for by its ID the next time.
func (p *program) unproved(addr transport.Addr, who identity.ID) {
	if !addr.IsZero() && addr.Peer.IsZero() {
		addr.Peer = who
		p.note("whoever answered is not checked against an ID; to make sure of this one, use %s", addr)
	}
}
