package main

import (
	"context"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
)

// sent is the reply as --json shows it. Of text and data there is one: text if the reply is UTF-8, else data.
type sent struct {
	Operation string      `json:"operation"` // empty if the peer had nothing to say
	From      identity.ID `json:"from"`
	Name      string      `json:"name"`
	MS        float64     `json:"ms"`
	Text      *string     `json:"text,omitempty"`
	Data      []byte      `json:"data,omitempty"`
}

func (p *program) sendCommand() *cobra.Command {
	var operation string
	var flags clientFlags
	cmd := &cobra.Command{
		Use:   "send [flags] ADDR < data",
		Short: "Send one message to a node and print the reply",
		Long: `Sends standard input as the data of one message, at most 16 MiB, and prints the data of the reply as it is. An operation
that the node does not know is a failure, as is an error of the node.

The node must prove the ID in ADDR. If there is none, whoever answers is talked to, and standard error says who it was.`,
		Example: `  echo hello | pheromones send quic://<id>@192.0.2.7:4001
  pheromones send --operation getstate mux://<id>@192.0.2.7:4002 < /dev/null > state
  echo hello | pheromones send --join quic://<id>@192.0.2.7:4001 <id of another>
  pheromones send --json tcp://127.0.0.1:4003 < question    {"operation", "from", "name", "ms", "text" or base64 "data"}`,
		Args: wantArgs("ADDR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if operation == "" || len(operation) > protocol.MaxName || !utf8.ValidString(operation) {
				return usagef("--operation %.40q: want 1 to %d bytes of UTF-8", operation, protocol.MaxName)
			}
			return p.send(cmd.Context(), &flags, args[0], operation)
		},
	}
	cmd.Flags().StringVar(&operation, "operation", "say", "the `operation` of the message")
	flags.add(cmd, "the exchange")
	p.jsonFlag(cmd, "the reply as one object")
	return cmd
}

func (p *program) send(ctx context.Context, flags *clientFlags, addr, operation string) error {
	c, err := p.newClient(ctx, flags, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if isTerminal(p.in) {
		p.note("type the message; Ctrl-D ends it")
	}
	data, err := p.readAll(ctx, protocol.DefaultLimit)
	if err != nil {
		return err
	}
	ctx, cancel := flags.bound(ctx)
	defer cancel()
	began := time.Now()
	reply, err := c.Dispatch(ctx, c.to, protocol.Message{Operation: operation, Data: data})
	if err != nil {
		return err
	}
	elapsed := time.Since(began)
	from := reply.From
	if r, ok := c.route(); from.IsZero() && ok {
		from = r.ID // a reply of none has no sender
	}
	p.unproved(c.addr, from)
	if reply.Operation == protocol.OpUnknown && operation != protocol.OpUnknown {
		return fmt.Errorf("%s does not know the operation %q", c.to, operation)
	}
	if p.json {
		out := sent{Operation: reply.Operation, From: from, Name: reply.Name, MS: ms(elapsed)}
		if text := string(reply.Data); utf8.ValidString(text) {
			out.Text = &text
		} else {
			out.Data = reply.Data
		}
		p.object(out)
		return nil
	}
	p.out.Write(reply.Data) // a failure is kept for the end
	return nil
}

// readAll reads standard input to its end, at most limit bytes. When ctx ends it returns, and leaves the read behind: nothing
// can end it, and the process is about to end.
func (p *program) readAll(ctx context.Context, limit int) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	read := make(chan result, 1)
	go func() {
		data, err := io.ReadAll(io.LimitReader(p.in, int64(limit)+1))
		read <- result{data, err}
	}()
	select {
	case r := <-read:
		switch {
		case r.err != nil:
			return nil, fmt.Errorf("reading standard input: %w", r.err)
		case len(r.data) > limit:
			return nil, fmt.Errorf("standard input is larger than a message may be (%d bytes); use a service and pipe", limit)
		}
		return r.data, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
