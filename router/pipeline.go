package router

import (
	"context"
	"errors"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

// pipeline is what carries small requests to a peer over a link, once some were made: a stream that they share. Its fields but
// the first two are guarded by Router.mu.
type pipeline struct {
	*protocol.Pipeline
	l *link

	timer   *time.Timer   // calls look. It is one of Router.running until stopped or run to its end
	silence time.Duration // after which the peer is asked for a sign of life
	asked   bool          // it was
}

const (
	// pipelineAfter is how many requests go over a link on streams of their own before there is a pipeline.
	pipelineAfter = 2
	// pipelineIdle is how long nothing is asked on a pipeline until it is ended.
	pipelineIdle = 10 * time.Second
	// maxPipelines bounds the pipelines that a peer has on a link at a time. It needs one, and may have another while that ends.
	maxPipelines = 4
	// pipelineRoom is left in a request for what is not the message's own.
	pipelineRoom = 128
)

// pipelined returns a pipeline to a peer that a request may take, which is counted as a stream until [link.release]; or nil.
// It has one made if it is worth it.
func (r *Router) pipelined(id identity.ID, m *protocol.Message) *pipeline {
	if len(m.Data)+len(m.Operation)+len(m.Name)+pipelineRoom > protocol.PipelineLimit {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rt := r.routes[id]
	if rt == nil || rt.deleted || r.closed {
		return nil
	}
	l := rt.best()
	switch {
	case l == nil || !l.control.pipelines || !l.takes():
		return nil
	case l.pipeline != nil:
		l.active++
		l.opened++
		return l.pipeline
	}
	if l.asks++; l.asks > pipelineAfter && !l.pipelining {
		l.pipelining = true
		r.running.Add(1)
		go l.runPipeline()
	}
	return nil
}

// runPipeline makes a pipeline and takes in answers until it ends.
func (l *link) runPipeline() {
	r := l.r
	defer r.running.Done()
	s, err := l.conn.OpenStream(r.ctx)
	if err == nil {
		p := &pipeline{Pipeline: protocol.NewPipeline(s, l.conn.Info().RemotePeer, r.cfg.Protocol), l: l, silence: patience}
		r.mu.Lock()
		l.pipeline = p
		if !r.closed {
			r.running.Add(1)
			p.timer = time.AfterFunc(p.silence, p.look)
		}
		r.mu.Unlock()
		err = p.Run()
		r.mu.Lock()
		if l.pipeline = nil; p.timer != nil && p.timer.Stop() {
			r.running.Done()
		}
		p.timer = nil
		r.mu.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l.asks = 0
	l.pipelining = false
	if errors.Is(err, transport.CodeRefused) || errors.Is(err, transport.CodeUnknownService) {
		l.control.pipelines = false
	}
}

// look ends a pipeline that nothing is asked on any more. If something is, and nothing was heard for long, it asks the peer for a
// sign of life, and gives up the link if there is none: as [Router.listen] does for one stream.
func (p *pipeline) look() {
	r := p.l.r
	r.mu.Lock()
	defer r.mu.Unlock()
	quiet, busy := p.Quiet()
	var next time.Duration
	switch {
	case p.timer == nil || r.closed || !busy && quiet >= pipelineIdle && p.End():
		p.timer = nil
		r.running.Done()
		return
	case !busy:
		p.asked, p.silence, next = false, patience, pipelineIdle-quiet
	case quiet < p.silence:
		p.asked, next = false, p.silence-quiet
		if quiet < patience {
			p.silence, next = patience, patience-quiet
		}
	case !p.asked:
		p.l.probe()
		p.asked, next = true, deaf
	case !p.l.control.greeted || !p.l.control.asked.IsZero() && time.Since(p.l.control.asked) >= deaf:
		p.l.drainLocked(transport.CodeTimeout, "it was silent", unbounded)
		p.timer = nil
		r.running.Done()
		p.Break(&transport.ResetError{Code: transport.CodeSuperseded})
		return
	default:
		p.asked = false
		p.silence = min(2*p.silence, maxPatience)
		next = p.silence
	}
	p.timer.Reset(max(next, time.Millisecond))
}

// ServePipeline serves a stream of the service [protocol.PipelineService], whose header has been read, as Config.Serve was given
// it, with h and cfg. It returns as [protocol.ServePipeline] does.
func (r *Router) ServePipeline(ctx, stopping context.Context, s transport.Stream, h protocol.Handler, cfg *protocol.Config) error {
	ls, ok := s.(*linkStream)
	if !ok || ls.ours {
		s.Reset(transport.CodeProtocol)
		return nil
	}
	ls.once.Do(func() { ls.link.release(false, false) }) // its requests are counted instead
	if !ls.link.admit(1) {
		ls.Stream.Reset(transport.CodeLimit)
		return nil
	}
	defer ls.link.admit(-1)
	return protocol.ServePipeline(ctx, stopping, ls.Stream, ls.link.conn.Info().RemotePeer, h, (*asked)(ls.link), cfg)
}

// admit counts the pipelines of the peer's, and reports whether there may be as many.
func (l *link) admit(n int) bool {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if l.served+n > maxPipelines {
		return false
	}
	l.served += n
	return true
}

// asked counts the requests that come on a pipeline as the streams that they would be.
type asked link

// Begin implements [protocol.Tracker].
func (l *asked) Begin() bool {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if l.r.draining || l.r.closed {
		return false
	}
	l.active++
	return true
}

// End implements [protocol.Tracker].
func (l *asked) End() { (*link)(l).release(false, true) }
