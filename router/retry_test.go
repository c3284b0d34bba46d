package router

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

// A request that was lost goes out as soon as there is a link again, however long it was going to wait.
func TestRetryAtNextLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(mem.Network)
		a, b := newNode(t, network, nil), newNode(t, network, nil)
		runs := 0
		b.cfg.Handler = protocol.HandlerFunc(func(context.Context, protocol.Message) (protocol.Message, error) {
			if runs++; runs == 1 {
				newest(b.Router, a.ID()).conn.CloseWithError(transport.CodeInternal, "cut")
				b.tr.Close() // its listener, too
				time.Sleep(time.Hour)
			}
			return protocol.Message{Operation: "ran"}, nil
		})
		if err := a.Introduce(b.at); err != nil {
			t.Fatal(err)
		}
		answered := make(chan time.Time)
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			if _, err := a.Dispatch(ctx, b.ID(), protocol.Message{Operation: "x"}); err != nil {
				t.Error(err)
			}
			answered <- time.Now()
		}()
		time.Sleep(5*time.Second + time.Millisecond)
		inner, err := mem.New(b.key, &mem.Config{Network: network})
		if err != nil {
			t.Fatal(err)
		}
		defer inner.Close()
		c, err := inner.Dial(t.Context(), a.at)
		if err != nil {
			t.Fatal(err)
		}
		up := time.Now()
		if _, err := b.attach(c, up); err != nil {
			t.Fatal(err)
		}
		if at := <-answered; at != up {
			t.Errorf("answered %v after there was a link, want at once", at.Sub(up))
		}
		c.CloseWithError(transport.CodeShutdown, "")
	})
}
