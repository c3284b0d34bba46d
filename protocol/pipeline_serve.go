package protocol

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/internal/outq"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Tracker is told of each request on a pipeline.
type Tracker interface {
	Begin() bool // a request has come; false: it is refused, and End is not called
	End()        // its answer is on its way
}

// ServePipeline answers the exchanges that peer, which is whom the stream's connection leads to, makes on the pipeline s that it
// opened and whose service header has been read. Each request is given to h in a goroutine of its own, and what h returns is sent
// back, as [Serve] does. t may be nil.
//
// It returns when the stream has ended and every call of h has returned: nil if the peer has ended it, or if stopping has ended,
// for then it ends the stream itself when all that was taken has been answered and the peer has the answers. When ctx ends it
// resets the stream with transport.CodeShutdown.
func ServePipeline(ctx, stopping context.Context, s transport.Stream, peer identity.ID, h Handler, t Tracker, cfg *Config) error {
	v := &pipelineServer{s: s, peer: peer, h: orEmpty(h), tracker: t, cfg: cfg.orDefault(), running: make(map[uint32]*served)}
	v.out = outq.New((*patientWriter)(v), pipelineMark, new(outq.Pool), func(error) { s.Reset(transport.CodeTimeout) }).Gather()
	unreset := resetWhenDone(ctx, s, transport.CodeShutdown)
	stopped := make(chan struct{})
	unstop := context.AfterFunc(stopping, func() {
		defer close(stopped)
		v.stop()
	})
	err := v.listen(ctx)
	if !unstop() {
		<-stopped
	}
	if v.end(err) {
		err = nil
	}
	if err != nil {
		s.Reset(codeFor(err)) // which also frees those who wait to answer
	}
	v.handlers.Wait()
	unreset()
	v.out.Finish(io.EOF, func() {})
	v.out.Wait()
	if err == nil {
		s.Close()
		return nil
	}
	return fmt.Errorf("protocol: serve the pipeline of peer %v: %w", peer, reason(ctx, err))
}

// pipelineServer is the answering side of a pipeline.
type pipelineServer struct {
	s        transport.Stream
	peer     identity.ID
	h        Handler
	tracker  Tracker
	cfg      Config
	out      *outq.Queue
	handlers sync.WaitGroup

	mu       sync.Mutex
	running  map[uint32]*served
	stopping bool // takes no request any more
}

// served is one request.
type served struct {
	talk
	v       *pipelineServer
	number  uint32
	request Frame
	wrong   error // why it is refused

	mu   sync.Mutex
	gone context.CancelCauseFunc // what wants to know if the peer goes away
	why  error                   // it has
}

// watch implements watcher.
func (c *served) watch(gone context.CancelCauseFunc) (stop func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why != nil {
		gone(c.why)
	} else {
		c.gone = gone
	}
	return c.unwatch
}

func (c *served) unwatch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = nil
}

// leave says that the peer does not wait for the answer any more, or cannot be told.
func (c *served) leave(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why != nil {
		return
	}
	if c.why = why; c.gone != nil {
		c.gone(why)
	}
}

// patientWriter writes to the stream for as long as a peer may take.
type patientWriter pipelineServer

// Write implements io.Writer.
func (w *patientWriter) Write(b []byte) (int, error) {
	if w.cfg.IdleTimeout > 0 {
		chunks := time.Duration(1 + len(b)/maxChunk)
		if err := w.s.SetWriteDeadline(time.Now().Add(chunks * w.cfg.IdleTimeout)); err != nil {
			return 0, err
		}
	}
	return w.s.Write(b)
}

// listen takes in requests until the stream ends.
func (v *pipelineServer) listen(ctx context.Context) error {
	r := bufio.NewReader(v.s)
	for {
		number, size, more, err := readPiece(r)
		switch {
		case err != nil:
			return err
		case more, size > 4+PipelineLimit:
			return fmt.Errorf("%w: a request on a pipeline, %d bytes, at most %d are allowed", ErrTooLarge, size, 4+PipelineLimit)
		}
		b := make([]byte, size)
		if _, err := io.ReadFull(r, b); err != nil {
			return fmt.Errorf("%w: a piece of a pipeline: %w", ErrMalformed, io.ErrUnexpectedEOF)
		}
		f, rest, err := ParseFrame(b, v.cfg.Limit)
		if err == nil && len(rest) > 0 {
			err = fmt.Errorf("%w: %d bytes behind a request", ErrMalformed, len(rest))
		}
		if err := v.take(ctx, number, f, err); err != nil {
			return err
		}
	}
}

// take takes in what the peer says about one request: a frame, or what is wrong with it.
func (v *pipelineServer) take(ctx context.Context, number uint32, f Frame, wrong error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	c := v.running[number]
	switch {
	case wrong == nil && f.Kind == KindNone:
		if c != nil { // else its answer is on the way
			c.leave(&transport.ResetError{Code: transport.CodeCancelled, Remote: true})
		}
		return nil
	case wrong == nil && f.Kind != KindMessage:
		return fmt.Errorf("%w: %d, want a request", ErrKind, f.Kind)
	case c != nil:
		return fmt.Errorf("%w: a second request of the number %d", ErrMalformed, number)
	case len(v.running) >= MaxPipelined:
		return fmt.Errorf("%w: more than %d requests at once", ErrTooLarge, MaxPipelined)
	}
	f.Message.From = v.peer
	if wrong != nil {
		code, _ := refusal(wrong)
		wrong = fmt.Errorf("%w: %w", code, wrong)
	} else if v.stopping || v.tracker != nil && !v.tracker.Begin() {
		wrong = fmt.Errorf("%w: this node shuts down", CodeRefused)
	}
	c = &served{talk: talk{peer: v.peer, cfg: v.cfg}, v: v, number: number, request: f, wrong: wrong}
	c.way = c
	v.running[number] = c
	v.handlers.Add(1)
	go c.run(ctx)
	return nil
}

// run is the goroutine of one request, which is refused if something is wrong.
func (c *served) run(ctx context.Context) {
	v := c.v
	defer v.handlers.Done()
	out := Frame{Kind: KindError, Code: CodeInternal, Incarnation: v.cfg.incarnation()}
	defer func() { // also if the handler ends its goroutine
		if ctx.Err() == nil { // what a handler says whose context was ended is no answer
			v.answer(c.number, &out)
		}
		if c.wrong == nil && v.tracker != nil {
			v.tracker.End()
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.running, c.number)
		v.finish()
	}()
	if c.wrong != nil {
		out = answerTo(c.wrong)
		out.Incarnation = v.cfg.incarnation()
		return
	}
	out, _ = c.respond(ctx, v.h, &c.request)
	switch {
	case out.Kind == 0: // nobody wants to know, but for the number
		out = Frame{Kind: KindError, Code: CodeCancelled, Incarnation: v.cfg.incarnation()}
	case out.Kind == KindMessage:
		out.Timeout = remaining(ctx)
	}
}

// answer queues an answer, piece by piece as there is room.
func (v *pipelineServer) answer(number uint32, f *Frame) {
	b, err := f.Append(make([]byte, pieceHead, pieceHead+4+f.size()), v.cfg.Limit)
	if err != nil { // respond has looked
		b = appendPiece(nil, number, Frame{Kind: KindError, Code: CodeInternal, Incarnation: v.cfg.incarnation()})
	}
	for rest := b[pieceHead:]; len(rest) > 0; {
		size := min(len(rest), maxPiece)
		length := uint16(size)
		if size < len(rest) {
			length |= pieceMore
		}
		for v.out.Full() {
			room := make(chan struct{})
			if v.out.Room(func() { close(room) }) {
				break
			}
			<-room
		}
		if len(b) == pieceHead+size { // the usual case: all in one
			binary.BigEndian.PutUint32(b, number)
			binary.BigEndian.PutUint16(b[4:], length)
			v.out.Append(b)
			return
		}
		var head [pieceHead]byte
		binary.BigEndian.PutUint32(head[:], number)
		binary.BigEndian.PutUint16(head[4:], length)
		if v.out.Append(head[:], rest[:size]) != nil {
			return
		}
		rest = rest[size:]
	}
}

// stop makes the pipeline refuse requests.
func (v *pipelineServer) stop() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.stopping = true
	v.finish()
}

// finish ends this direction of a pipeline that stops once everything is answered, and bounds how long the peer may take to end its
// own, which says that it has the answers; with mu held.
func (v *pipelineServer) finish() {
	if v.stopping && len(v.running) == 0 {
		v.out.Finish(io.EOF, func() {
			v.s.CloseWrite()
			v.s.SetReadDeadline(time.Now().Add(finishTimeout))
		})
	}
}

// end takes in why listen has ended, and reports whether in order.
func (v *pipelineServer) end(err error) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err == io.EOF || v.stopping && len(v.running) == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	for _, c := range v.running {
		c.leave(err)
	}
	return false
}
