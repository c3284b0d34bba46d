package router

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
	"github.com/Blockchain-CN/pheromones/transport/mem"
)

// answering answers "wait" when free is closed, and everything else at once.
func answering(free <-chan struct{}) func(*Config) {
	return func(c *Config) {
		c.Handler = protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
			if m.Operation == "wait" {
				<-free
			}
			return m, nil
		})
	}
}

func (n *node) asks(t *testing.T, to *node, op string) error {
	t.Helper()
	reply, err := n.Dispatch(t.Context(), to.ID(), protocol.Message{Operation: op})
	if err == nil && reply.Operation != op {
		t.Errorf("the reply is %q, want %q", reply.Operation, op)
	}
	return err
}

// piped returns the pipeline of n's link with another.
func (n *node) piped(to *node) *pipeline {
	n.mu.Lock()
	defer n.mu.Unlock()
	if rt := n.routes[to.ID()]; rt != nil && rt.best() != nil {
		return rt.best().pipeline
	}
	return nil
}

// A few requests have a pipeline made, which ends when nothing is asked any more; and then another. Counts are as of streams.
func TestPipeline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(mem.Network)
		a, b := newNode(t, network, nil), newNode(t, network, nil)
		b.cfg.Handler = protocol.HandlerFunc(func(ctx context.Context, m protocol.Message) (protocol.Message, error) { return m, nil })
		if _, err := a.Reach(t.Context(), b.at); err != nil {
			t.Fatal(err)
		}
		for round := range 2 {
			if a.piped(b) != nil {
				t.Error("there is a pipeline before anything was asked")
			}
			for range 10 {
				if err := a.asks(t, b, "x"); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			if a.piped(b) == nil {
				t.Fatal("there is no pipeline")
			}
			time.Sleep(pipelineIdle - time.Second)
			if synctest.Wait(); a.piped(b) == nil {
				t.Error("the pipeline was ended too soon")
			}
			time.Sleep(2 * time.Second)
			if synctest.Wait(); a.piped(b) != nil {
				t.Error("the pipeline was not ended")
			}
			la, lb := linksOf(a.Router, b.ID())[0], linksOf(b.Router, a.ID())[0]
			if want := uint64(10 * (round + 1)); la.active != 0 || lb.active != 0 || la.opened != want || lb.finished != want {
				t.Errorf("round %d: active %d and %d, opened %d, finished %d; want 0, 0, %d, %d", round, la.active, lb.active, la.opened, lb.finished, want, want)
			}
		}
	})
}

// A slow handler holds up no other, and its link, which answers, is kept; requests in the middle of a drain are finished.
func TestPipelineSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(mem.Network)
		free := make(chan struct{})
		a, b := newNode(t, network, nil), newNode(t, network, nil)
		answering(free)(&b.cfg)
		if _, err := a.Reach(t.Context(), b.at); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if err := a.asks(t, b, "x"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		p := a.piped(b)
		if p == nil {
			t.Fatal("there is no pipeline")
		}
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if err := a.asks(t, b, "wait"); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if _, busy := p.Quiet(); !busy {
			t.Error("the slow requests do not go by the pipeline")
		}
		if err := a.asks(t, b, "x"); err != nil {
			t.Error(err)
		}
		time.Sleep(5 * time.Minute) // far more than patience
		if a.piped(b) != p {
			t.Error("the link was given up")
		}
		close(free)
		all.Wait()
	})
}

// The link falls silent: what is asked on the pipeline goes by another link.
func TestPipelineSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(mem.Network)
		free := make(chan struct{})
		defer close(free)
		a, b := newNode(t, network, nil), newNode(t, network, nil)
		answering(free)(&b.cfg)
		if _, err := a.Reach(t.Context(), b.at); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if err := a.asks(t, b, "x"); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		p := a.piped(b)
		if p == nil {
			t.Fatal("there is no pipeline")
		}
		// As if the peer had stopped: it takes no more in on this link, and answers no ping.
		l := linksOf(b.Router, a.ID())[0]
		b.mu.Lock()
		l.ended = true
		b.mu.Unlock()
		go func() { a.asks(t, b, "wait") }()
		synctest.Wait()
		time.Sleep(patience + 2*deaf)
		synctest.Wait()
		a.mu.Lock()
		draining := p.l.draining
		a.mu.Unlock()
		if !draining {
			t.Error("the silent link is still used")
		}
		p.l.conn.CloseWithError(transport.CodeInternal, "")
	})
}

// A peer has a few pipelines at most, and each is given back.
func TestPipelinesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := new(mem.Network)
		a, b := newNode(t, network, nil), newNode(t, network, nil)
		if _, err := a.Reach(t.Context(), b.at); err != nil {
			t.Fatal(err)
		}
		header, _ := protocol.AppendService(nil, protocol.PipelineService)
		for range 2 {
			var open []transport.Stream
			for i := range maxPipelines + 1 {
				s, err := linksOf(a.Router, b.ID())[0].conn.OpenStream(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				s.Write(header)
				synctest.Wait()
				s.SetReadDeadline(time.Now().Add(time.Millisecond))
				if _, err := s.Read(make([]byte, 1)); errors.Is(err, transport.CodeLimit) != (i == maxPipelines) {
					t.Errorf("pipeline %d: %v", i, err)
				}
				open = append(open, s)
			}
			for _, s := range open {
				s.Close()
			}
			synctest.Wait()
		}
	})
}
