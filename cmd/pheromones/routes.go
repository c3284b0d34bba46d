package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// peer is a route as --json shows it.
type peer struct {
	ID    identity.ID      `json:"id"`
	Name  string           `json:"name"`
	Addrs []transport.Addr `json:"addrs"`
	Asked bool             `json:"asked"` // it is the node at ADDR itself
}

func (p *program) routesCommand() *cobra.Command {
	var flags clientFlags
	cmd := &cobra.Command{
		Use:   "routes [flags] ADDR",
		Short: "List the nodes that a node knows",
		Long: `Greets the node at ADDR as nodes do when they meet, lists it and the nodes it knows, and takes leave. Names are labels that
several nodes may bear; of the addresses it is not tried whether they work.`,
		Example: `  pheromones routes quic://<id>@192.0.2.7:4001
  pheromones routes --json mux://192.0.2.7:4002    {"id", "name", "addrs", "asked"} for each`,
		Args: wantArgs("ADDR"),
		RunE: func(cmd *cobra.Command, args []string) error { return p.routes(cmd.Context(), &flags, args[0]) },
	}
	flags.add(cmd, "all of it")
	p.jsonFlag(cmd, "one object for each node")
	return cmd
}

func (p *program) routes(ctx context.Context, flags *clientFlags, addr string) error {
	c, err := p.newClient(ctx, flags, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := flags.bound(ctx)
	defer cancel()
	id, err := c.Add(ctx, addr)
	if err != nil {
		return err
	}
	p.unproved(c.addr, id)
	var peers []peer
	for _, r := range c.Routes() {
		peers = append(peers, peer{r.ID, r.Name, r.Addrs, r.ID == id})
	}
	// Taking leave keeps the others from trying to reach this node.
	if err := c.Shutdown(ctx); err != nil {
		return err
	}
	p.showPeers(peers)
	return nil
}

func (p *program) showPeers(peers []peer) {
	if p.json {
		for _, r := range peers {
			p.object(r)
		}
		return
	}
	t := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	defer t.Flush()
	fmt.Fprintln(t, "NAME\tID\tADDRESSES")
	for _, r := range peers {
		var at []string
		for _, a := range r.Addrs {
			a.Peer = identity.ID{} // it stands beside them
			at = append(at, a.String())
		}
		name := clean(r.Name)
		if name == "" {
			name = "-"
		}
		if len(at) == 0 {
			at = []string{"-"}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", name, r.ID, strings.Join(at, " "))
	}
}
