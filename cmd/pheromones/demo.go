package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/router"
	"github.com/Blockchain-CN/pheromones/transport"
)

func (p *program) demoCommand() *cobra.Command {
	var scheme string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Let three nodes meet and talk on this machine",
		Long: `Starts three nodes on loopback, luda, yoghurt and diudiu, and shows what they do: they get to know each other, hold a
conversation, ask one peer, ask all, forget one, and part. The same happens over every transport. Nothing is left behind.`,
		Example: `  pheromones demo
  pheromones demo --transport tcp
  pheromones demo --json            one event on each line; only addr and ms differ from run to run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains(schemes(), scheme) {
				return usagef("--transport %q: want one of %s", scheme, strings.Join(schemes(), ", "))
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			d := &demo{p: p, scheme: scheme, names: make(map[identity.ID]string)}
			return errors.Join(d.run(ctx), d.close())
		},
	}
	cmd.Flags().StringVar(&scheme, "transport", quicScheme, "the `scheme` of the transport: "+strings.Join(schemes(), ", "))
	p.jsonFlag(cmd, "one object for each event")
	return cmd
}

// demo is the play.
type demo struct {
	p      *program
	scheme string
	nodes  []*actor
	names  map[identity.ID]string
}

// actor is a node on the stage.
type actor struct {
	*pheromones.Node
	name  string
	watch *router.Watcher
}

// event is one thing that happens. Which ones do, and in which order, is the same over every transport.
type event struct {
	Event     string   `json:"event"`
	Node      string   `json:"node"`
	Peer      string   `json:"peer,omitempty"`
	Peers     []string `json:"peers,omitempty"`
	Operation string   `json:"operation,omitempty"`
	Text      string   `json:"text,omitempty"`
	Addr      string   `json:"addr,omitempty"`
	MS        *float64 `json:"ms,omitempty"`
}

func (d *demo) run(ctx context.Context) error {
	names := []string{"luda", "yoghurt", "diudiu"}
	d.title("Three nodes start, over %s:", d.scheme)
	for _, name := range names {
		if err := d.start(ctx, name); err != nil {
			return err
		}
	}
	luda, yoghurt, diudiu := d.nodes[0], d.nodes[1], d.nodes[2]

	d.title("Two of them add the third, and so all come to know all:")
	for _, n := range []*actor{luda, diudiu} {
		began := time.Now()
		if _, err := n.Add(ctx, yoghurt.Addrs()[0].String()); err != nil {
			return err
		}
		d.show(event{Event: "add", Node: n.name, Peer: yoghurt.name, MS: since(began)})
	}
	for _, n := range d.nodes {
		if err := d.knows(ctx, n, slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == n.name })); err != nil {
			return err
		}
	}

	d.title("luda and yoghurt hold a conversation, until one has nothing more to say:")
	began := time.Now()
	if err := luda.Converse(ctx, yoghurt.name, message(luda.name, "hello")); err != nil {
		return err
	}
	d.show(event{Event: "end", Node: luda.name, Peer: yoghurt.name, MS: since(began)})

	d.title("luda asks diudiu, whom it has never dialled:")
	began = time.Now()
	reply, err := luda.Dispatch(ctx, diudiu.name, protocol.Message{Operation: "ask", Data: []byte("what is for lunch?")})
	if err != nil {
		return err
	}
	d.show(event{Event: "reply", Node: luda.name, Peer: reply.Name, Operation: reply.Operation, Text: string(reply.Data), MS: since(began)})

	d.title("luda asks everybody:")
	if err := d.askAll(ctx, luda); err != nil {
		return err
	}

	d.title("luda forgets yoghurt, and asks everybody again:")
	if err := luda.Delete(yoghurt.name); err != nil {
		return err
	}
	d.show(event{Event: "delete", Node: luda.name, Peer: yoghurt.name})
	if err := d.knows(ctx, luda, []string{diudiu.name}); err != nil {
		return err
	}
	if err := d.askAll(ctx, luda); err != nil {
		return err
	}

	d.title("They part:")
	for _, n := range d.nodes {
		began := time.Now()
		if err := n.Shutdown(ctx); err != nil {
			return err
		}
		d.show(event{Event: "shutdown", Node: n.name, MS: since(began)})
	}
	return nil
}

// start puts a node on the stage.
func (d *demo) start(ctx context.Context, name string) error {
	key, err := identity.Generate()
	if err != nil {
		return err
	}
	t, err := newTransport(d.scheme, key)
	if err != nil {
		return err
	}
	n, err := pheromones.New(pheromones.Config{
		Name: name, Transports: []transport.Transport{t}, Handler: d.handler(name), Logger: d.p.logger(),
	})
	if err != nil {
		t.Close()
		return err
	}
	d.nodes = append(d.nodes, &actor{n, name, n.Watch()})
	d.names[n.ID()] = name
	if err := n.Start(ctx, d.scheme+"://127.0.0.1:0"); err != nil {
		return err
	}
	d.show(event{Event: "start", Node: name, Addr: n.Addrs()[0].String()})
	return nil
}

// close ends what run has left.
func (d *demo) close() error {
	var errs []error
	for _, n := range d.nodes {
		errs = append(errs, n.Close())
		n.watch.Close()
	}
	return errors.Join(errs...)
}

// message is what is said in conversations: the words that belong to an operation.
func message(name, operation string) protocol.Message {
	words := map[string]string{
		"hello":     "I am " + name,
		"howareyou": "how are you, says " + name,
		"fine":      "fine, thank you",
		"bye":       "see you",
	}
	return protocol.Message{Operation: operation, Data: []byte(words[operation])}
}

// handler is what every node does with a message. Both sides of a conversation have it, and each answers with the next step.
func (d *demo) handler(name string) protocol.Handler {
	next := map[string]string{"hello": "howareyou", "howareyou": "fine", "fine": "bye", "bye": ""}
	answers := map[string]string{"luda": "noodles", "yoghurt": "dumplings", "diudiu": "rice"}
	return protocol.HandlerFunc(func(_ context.Context, m protocol.Message) (protocol.Message, error) {
		if m.Operation == "ask" {
			return protocol.Message{Operation: "answer", Data: []byte(answers[name])}, nil
		}
		step, ok := next[m.Operation]
		if !ok {
			return protocol.Unknown(m), nil
		}
		d.show(event{Event: "say", Node: m.Name, Peer: name, Operation: m.Operation, Text: string(m.Data)})
		if step == "" {
			return protocol.Message{}, nil
		}
		return message(name, step), nil
	})
}

// knows waits until n knows the peers with these names and no others.
func (d *demo) knows(ctx context.Context, n *actor, names []string) error {
	slices.Sort(names)
	for {
		var have []string
		for _, r := range n.Routes() {
			have = append(have, r.Name)
		}
		if slices.Equal(have, names) { // Routes is sorted by name
			d.show(event{Event: "knows", Node: n.name, Peers: names})
			return nil
		}
		select {
		case <-n.watch.C():
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s to know %v, it knows %v: %w", n.name, names, have, ctx.Err())
		}
	}
}

// askAll asks every peer of n, and shows the answers in the order of their names.
func (d *demo) askAll(ctx context.Context, n *actor) error {
	var events []event
	for id, res := range n.DispatchAll(ctx, protocol.Message{Operation: "ask", Data: []byte("what is for lunch?")}) {
		if res.Err != nil {
			return res.Err
		}
		elapsed := ms(res.Elapsed)
		events = append(events, event{
			Event: "reply", Node: n.name, Peer: d.names[id], Operation: res.Reply.Operation, Text: string(res.Reply.Data), MS: &elapsed,
		})
	}
	slices.SortFunc(events, func(a, b event) int { return strings.Compare(a.Peer, b.Peer) })
	for _, e := range events {
		d.show(e)
	}
	return nil
}

func since(t time.Time) *float64 {
	elapsed := ms(time.Since(t))
	return &elapsed
}

// title announces, to people, what comes next.
func (d *demo) title(format string, args ...any) {
	if !d.p.json {
		if len(d.nodes) > 0 {
			d.p.line("")
		}
		d.p.line(format, args...)
	}
}

// show tells of an event.
func (d *demo) show(e event) {
	if d.p.json {
		d.p.object(e)
		return
	}
	var text string
	switch e.Event {
	case "start":
		text = "listens at " + e.Addr
	case "add":
		text = "adds " + e.Peer
	case "knows":
		text = "knows " + strings.Join(e.Peers, " and ")
	case "say":
		text = fmt.Sprintf("to %-8s %-10s %q", e.Peer+":", e.Operation, e.Text)
	case "end":
		text = "and " + e.Peer + " are done"
	case "reply":
		text = fmt.Sprintf("hears from %-8s %q", e.Peer+":", e.Text)
	case "delete":
		text = "forgets " + e.Peer
	case "shutdown":
		text = "has shut down"
	}
	if e.MS != nil {
		text = fmt.Sprintf("%-50s %7.1f ms", text, *e.MS)
	}
	d.p.line("  %-8s %s", e.Node, text)
}
