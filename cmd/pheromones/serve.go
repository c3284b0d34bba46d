package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/nat/portmap"
	"github.com/Blockchain-CN/pheromones/nat/relay"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

// grace is how long serve waits, after a signal, for what is under way.
const grace = 5 * time.Second

type serveFlags struct {
	dir, name string
	listen    []string
	services  []string
	echo      bool
	relay     bool
	portmap   bool
	joinFlags
}

func (p *program) serveCommand() *cobra.Command {
	var flags serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a node until a signal comes",
		Long: `Runs a node. When it listens it prints its addresses, with its ID, one on each line of standard output; others reach it at
any of them. It answers each message with the same operation and data, and offers services, which are local TCP servers
that peers reach through the node ("pheromones pipe").

The key is DIR/key; it is made if it is missing, so that the node keeps its ID. A port 0 is any free one: give a number to
keep the address, too.

With --join the node stays reachable by its ID through the nodes that are joined, also from behind a NAT, if these were started with --relay.

A router that speaks PCP, NAT-PMP or UPnP is asked to forward the ports, unless --portmap=false says otherwise or the node listens at loopback; it is told when the node ends.

Ctrl-C or SIGTERM ends it: what is under way may finish within 5 s. A second signal ends it at once.`,
		Example: `  pheromones serve                                              over quic and mux, at free ports
  pheromones serve --listen quic://0.0.0.0:4001 --listen tcp://[::]:4002
  pheromones serve --dir /srv/node --service web=127.0.0.1:8080 --service ssh=127.0.0.1:22
  pheromones serve --relay --listen quic://0.0.0.0:4001         by which others reach each other
  pheromones serve --join quic://<id>@192.0.2.7:4001            reachable through that one
  pheromones serve --json                                       {"id", "name", "addrs", "services"}, when it is ready`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.serve(cmd.Context(), &flags) },
	}
	cmd.Flags().StringVar(&flags.dir, "dir", "", "the `folder` of the node (default: pheromones in the user's folder for settings)")
	cmd.Flags().StringVar(&flags.name, "name", "", "what the node calls itself (default: the name of this host)")
	cmd.Flags().StringArrayVar(&flags.listen, "listen", []string{"quic://0.0.0.0:0", "mux://0.0.0.0:0"},
		"an `address` to listen at, quic, mux or tcp; may be repeated")
	cmd.Flags().StringArrayVar(&flags.services, "service", nil, "`name=host:port`: offer a TCP server as a service; may be repeated")
	cmd.Flags().BoolVar(&flags.echo, "echo", true, "answer messages with themselves; else every operation is unknown")
	cmd.Flags().BoolVar(&flags.relay, "relay", false, "carry what others say to each other that cannot reach each other directly")
	cmd.Flags().BoolVar(&flags.portmap, "portmap", true, "ask the router to forward the node's ports (PCP, NAT-PMP, UPnP)")
	flags.joinFlags.add(cmd)
	p.jsonFlag(cmd, "one object when the node is ready")
	return cmd
}

// service is a TCP server that the node offers.
type service struct{ name, target string }

func parseServices(list []string) ([]service, error) {
	var services []service
	for _, s := range list {
		name, target, ok := strings.Cut(s, "=")
		if _, err := protocol.AppendService(nil, name); !ok || err != nil {
			return nil, usagef("--service %q: want name=host:port, the name 1 to 255 bytes", s)
		}
		if _, port, err := net.SplitHostPort(target); err != nil || port == "" {
			return nil, usagef("--service %q: %q is not host:port", s, target)
		}
		if slices.ContainsFunc(services, func(other service) bool { return other.name == name }) {
			return nil, usagef("--service %s: the name is given twice", name)
		}
		services = append(services, service{name, target})
	}
	return services, nil
}

// echo answers with what it was told.
func echo(_ context.Context, m protocol.Message) (protocol.Message, error) {
	return protocol.Message{Operation: m.Operation, Data: m.Data}, nil
}

// serving is the object that --json prints.
type serving struct {
	ID       identity.ID      `json:"id"`
	Name     string           `json:"name"`
	Addrs    []transport.Addr `json:"addrs"`
	Services []string         `json:"services"`
}

func (p *program) serve(ctx context.Context, flags *serveFlags) error {
	services, err := parseServices(flags.services)
	if err != nil {
		return err
	}
	n, err := p.serveNode(flags)
	if err != nil {
		return err
	}
	followed := p.follow(n)
	defer followed()
	defer n.Close()

	// Connections of services live until they end or are cut, which is after ctx.
	life, cut := context.WithCancel(context.WithoutCancel(ctx))
	var forwards sync.WaitGroup
	defer forwards.Wait()
	defer cut()
	var listeners []net.Listener
	var forwarders []*forwarder
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	names := []string{}
	for _, s := range services {
		l, err := n.Listen(s.name)
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
		names = append(names, s.name)
		f := p.forwarderTo(s)
		forwarders = append(forwarders, f)
		forwards.Go(func() { f.serve(life, l) })
	}
	if err := n.Start(ctx, flags.listen...); err != nil {
		return err
	}
	if len(flags.join) > 0 {
		p.awaitJoined(ctx, n)
	}
	if p.json {
		p.object(serving{n.ID(), n.Name(), n.Addrs(), names})
	} else {
		for _, a := range n.Addrs() {
			p.line("%s", a)
		}
	}
	if err := p.out.failed(); err != nil {
		return err
	}
	<-ctx.Done()

	for _, l := range listeners {
		l.Close()
	}
	bound, cancel := p.graceful(ctx)
	defer cancel()
	p.finish(bound, forwarders, &forwards, cut)
	if err := n.Shutdown(bound); err != nil {
		return err
	}
	if context.Cause(bound) == errInterrupted {
		return &exitError{exitInterrupted, errInterrupted}
	}
	return nil
}

// joinPatience is how long serve waits for the nodes that it joins before it says that it is ready.
const joinPatience = 5 * time.Second

// awaitJoined waits until the node has joined, so that its addresses through relays are known.
func (p *program) awaitJoined(ctx context.Context, n *pheromones.Node) {
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	if err := n.Joined(ctx); err != nil {
		p.note("%s; it is tried again and again", oneLine(err))
	}
}

// arrival is how long what was written last is given to arrive before its link is closed.
const arrival = time.Second

// finish waits for forwards, until ctx ends; then it cuts them off.
func (p *program) finish(ctx context.Context, forwarders []*forwarder, forwards *sync.WaitGroup, cut func()) {
	busy := slices.ContainsFunc(forwarders, func(f *forwarder) bool { return f.carrying.Load() > 0 })
	finished := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Go(func() {
		forwards.Wait()
		close(finished)
	})
	select {
	case <-finished:
	case <-ctx.Done():
		p.note("connections of services were cut off: %v", context.Cause(ctx))
	}
	cut()
	waiting.Wait()
	if busy {
		select {
		case <-time.After(arrival):
		case <-ctx.Done():
		}
	}
}

// graceful returns the context of a shutdown that ctx, which has ended, asks for: it ends after the grace period, or at the
// second signal.
func (p *program) graceful(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), grace, fmt.Errorf("%v have passed since the signal", grace))
	ctx, interrupt := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-p.hard:
			interrupt(errInterrupted)
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		cancel()
		watching.Wait()
		interrupt(nil)
	}
}

// serveNode makes the node, which does not listen yet.
func (p *program) serveNode(flags *serveFlags) (*pheromones.Node, error) {
	var wanted []string
	for _, s := range flags.listen {
		a, err := parseAddr(s)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(wanted, a.Scheme) {
			wanted = append(wanted, a.Scheme)
		}
	}
	file, err := keyIn(flags.dir)
	if err != nil {
		return nil, err
	}
	key, made, err := loadKey(file)
	if err != nil {
		return nil, err
	}
	if made {
		p.note("made a new key: %s", file)
	}
	cfg := pheromones.Config{Name: flags.name, Dir: filepath.Dir(file), Logger: p.logger()}
	if cfg.Name == "" {
		cfg.Name, _ = os.Hostname() // a label: none will do
	}
	if flags.portmap {
		cfg.PortMap = portmap.New(&portmap.Config{Logger: p.logger()})
	}
	if flags.echo {
		cfg.Handler = protocol.HandlerFunc(echo)
	}
	if wanted, err = flags.apply(&cfg, wanted); err != nil {
		return nil, err
	}
	if flags.relay {
		cfg.Relay = new(relay.Config)
	}
	if cfg.Transports, err = newTransports(wanted, key); err != nil {
		return nil, err
	}
	n, err := pheromones.New(cfg)
	if err != nil {
		closeAll(cfg.Transports)
	}
	return n, err
}

func closeAll(transports []transport.Transport) {
	for _, t := range transports {
		t.Close()
	}
}

// forwarderTo carries the connections of a service to its TCP server.
func (p *program) forwarderTo(s service) *forwarder {
	var d net.Dialer
	return &forwarder{
		dial: func(ctx context.Context) (conn, error) {
			ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			c, err := d.DialContext(ctx, "tcp", s.target)
			if err != nil {
				return nil, err
			}
			return c.(*net.TCPConn), nil
		},
		refused: func(from net.Addr, err error) {
			p.note("service %s: a connection from %s: %s", s.name, from, oneLine(err))
		},
		ended: func(from net.Addr, err error) {
			if err != nil && p.verbose {
				p.note("service %s: a connection from %s broke off: %s", s.name, from, oneLine(err))
			}
		},
	}
}
