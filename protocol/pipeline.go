package protocol

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/internal/outq"
	"github.com/Blockchain-CN/pheromones/transport"
)

// PipelineService is the name of the service of a stream on which many exchanges run at once (PR32): what [Pipeline] and
// [ServePipeline] speak.
const PipelineService = "pheromones.pipeline"

const (
	// PipelineLimit bounds the frame of a request on a pipeline, its length field not counted. Answers are not bounded by it.
	PipelineLimit = 8 << 10
	// MaxPipelined bounds the requests of a pipeline that are not answered yet.
	MaxPipelined = 256

	pieceHead = 4 + 2   // number, size
	maxPiece  = 1 << 14 // longer answers go in several pieces, so that others get in between
	pieceMore = 1 << 15 // in the size: a further piece follows
	// pipelineMark is how much may wait to be written before answers wait, and requests are sent on streams of their own.
	pipelineMark = 64 << 10
)

// ErrPipeline means that a pipeline takes no further request, being closed, full, or refused by the peer. It has sent nothing.
var ErrPipeline = errors.New("protocol: the pipeline takes no request")

// Pipeline is the asking side of a stream that carries any number of exchanges, many at once, whose answers come in any order
// (PR32). An exchange costs less on it than on a stream of its own. Its methods may be called from any goroutine at once.
type Pipeline struct {
	s    transport.Stream
	peer identity.ID
	cfg  Config
	out  *outq.Queue
	idle sync.Pool // of *pipelined, to be used again

	mu       sync.Mutex
	next     uint32
	calls    map[uint32]*pipelined // by number; nil for one that is given up and not answered yet
	since    time.Time             // when something was last heard, or the first of the calls was made
	answered bool                  // something was heard
	err      error                 // why it takes no request any more
}

// pipelined is one exchange.
type pipelined struct {
	outcome chan outcome // has room for the one that comes
	request []byte       // to be written
}

type outcome struct {
	f    Frame
	sent bool
	err  error
}

// NewPipeline returns the asking side of a pipeline on a new stream s to peer, which is whom the stream's connection leads to. A
// nil cfg is the zero Config. Whoever makes one calls [Pipeline.Run].
func NewPipeline(s transport.Stream, peer identity.ID, cfg *Config) *Pipeline {
	p := &Pipeline{s: s, peer: peer, cfg: cfg.orDefault(), calls: make(map[uint32]*pipelined)}
	p.out = outq.New(s, pipelineMark, new(outq.Pool), func(err error) { p.fail(err) }).Gather()
	header, err := AppendService(nil, PipelineService)
	if err == nil {
		err = p.out.Append(header)
	}
	if err != nil {
		p.err = err
	}
	return p
}

// Run takes in answers until the stream ends, and then ends it on this side, too. It returns why: nil after [Pipeline.End].
func (p *Pipeline) Run() error {
	err := p.listen()
	if err == io.EOF {
		// The peer has answered all that it took, see ServePipeline.
		err = fmt.Errorf("%w: the peer has ended it", ErrPipeline)
	}
	if refused := p.fail(err); errors.Is(refused, ErrPipeline) {
		p.out.Finish(ErrPipeline, func() { p.s.Close() })
	} else {
		p.s.Reset(codeFor(err))
		p.out.Close(ErrPipeline, nil, func() {})
	}
	p.out.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == errEnded {
		return nil
	}
	return p.err
}

func (p *Pipeline) listen() error {
	r := bufio.NewReader(p.s)
	parts := make(map[uint32][]byte) // of answers that are not complete
	for {
		number, size, more, err := readPiece(r)
		if err == nil {
			err = p.take(r, number, size, more, parts)
		}
		if err != nil {
			return err
		}
	}
}

// readPiece reads what stands before a piece. io.EOF means that the peer has ended its direction between two pieces.
func readPiece(r *bufio.Reader) (number uint32, size int, more bool, err error) {
	head, err := r.Peek(pieceHead)
	if err != nil {
		if err == io.EOF && len(head) > 0 {
			err = fmt.Errorf("%w: a piece of a pipeline: %w", ErrMalformed, io.ErrUnexpectedEOF)
		}
		return 0, 0, false, err
	}
	number = binary.BigEndian.Uint32(head)
	length := binary.BigEndian.Uint16(head[4:])
	r.Discard(pieceHead)
	size, more = int(length&^pieceMore), length&pieceMore != 0
	if size == 0 || size > maxPiece {
		return 0, 0, false, fmt.Errorf("%w: a piece of %d bytes, want 1 to %d", ErrMalformed, size, maxPiece)
	}
	return number, size, more, nil
}

// take reads a piece, and hands over the answer if it is complete.
func (p *Pipeline) take(r *bufio.Reader, number uint32, size int, more bool, parts map[uint32][]byte) error {
	p.mu.Lock()
	p.since, p.answered = time.Now(), true
	c, known := p.calls[number]
	p.mu.Unlock()
	if !known {
		return fmt.Errorf("%w: an answer to a request that was not made", ErrMalformed)
	}
	b := parts[number]
	if c == nil || len(b)+size > 4+p.cfg.Limit { // given up, or too large
		delete(parts, number)
		p.finish(number, outcome{sent: true, err: fmt.Errorf("%w: an answer of more than %d bytes", ErrTooLarge, p.cfg.Limit)}, more)
		_, err := r.Discard(size)
		return err
	}
	had := len(b)
	b = append(b, make([]byte, size)...)
	if _, err := io.ReadFull(r, b[had:]); err != nil {
		return err
	}
	if more {
		parts[number] = b
		return nil
	}
	delete(parts, number)
	f, rest, err := ParseFrame(b, p.cfg.Limit)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%w: %d bytes behind an answer", ErrMalformed, len(rest))
	}
	f.Message.From = p.peer
	p.finish(number, outcome{f: f, sent: true, err: err}, false)
	return nil
}

// finish gives an exchange its outcome, unless it was given up. keep says that further pieces come.
func (p *Pipeline) finish(number uint32, o outcome, keep bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.calls[number]; c != nil {
		c.outcome <- o
	}
	if keep {
		p.calls[number] = nil
	} else {
		delete(p.calls, number)
	}
}

// fail ends all exchanges with err, which wraps ErrPipeline if the peer has executed none of them, and returns that error. A peer
// that has refused the stream has read nothing of it.
func (p *Pipeline) fail(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var reset *transport.ResetError
	if !p.answered && errors.As(err, &reset) && reset.Remote && (reset.Code == transport.CodeRefused || reset.Code == transport.CodeUnknownService) {
		err = fmt.Errorf("%w: %w", ErrPipeline, err)
	}
	if p.err == nil {
		p.err = err
	}
	for _, c := range p.calls {
		if c != nil {
			c.outcome <- outcome{sent: !errors.Is(err, ErrPipeline), err: err}
		}
	}
	clear(p.calls)
	return p.err
}

// errEnded is why a pipeline takes no request after End.
var errEnded = fmt.Errorf("%w: it was ended", ErrPipeline)

// End ends the pipeline if no exchange is under way, and reports whether. Run then returns.
func (p *Pipeline) End() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.calls) > 0 {
		return false
	}
	if p.err == nil {
		p.err = errEnded
	}
	p.out.Finish(errEnded, func() { p.s.Close() })
	return true
}

// Break ends the pipeline at once. The exchanges under way fail with err.
func (p *Pipeline) Break(err error) {
	p.fail(err)
	p.s.Reset(transport.CodeSuperseded)
}

// Quiet returns for how long nothing was heard, and whether an exchange is under way: then it counts from the moment when the first of them was.
func (p *Pipeline) Quiet() (d time.Duration, busy bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.since), len(p.calls) > 0
}

// Exchange is [ExchangeFrame] on the pipeline: it returns as that does, but the stream goes on. When ctx ends the peer is told. A
// request that is larger than PipelineLimit, or for which there is no room, is not sent: the error wraps [ErrPipeline].
func (p *Pipeline) Exchange(ctx context.Context, request Frame) (Frame, error) {
	request.Message = p.cfg.fill(request.Message)
	o := p.exchange(ctx, &request)
	if o.err == nil {
		switch {
		case o.f.Kind == KindError && o.f.Code == CodeCancelled:
			o.err = over(ctx)
		case o.f.Kind == KindMessage && o.f.Message.ID != request.Message.ID:
			o.err = fmt.Errorf("%w: the reply answers message %v, want %v", ErrMalformed, o.f.Message.ID, request.Message.ID)
		case o.f.Kind == KindNone:
			o.f.Message = Message{}
		}
	}
	if o.err == nil {
		return o.f, nil
	}
	return Frame{}, &ExchangeError{Peer: p.peer, Operation: request.Message.Operation, ID: request.Message.ID, Sent: o.sent, Err: o.err}
}

func (p *Pipeline) exchange(ctx context.Context, request *Frame) outcome {
	if ctx.Err() != nil {
		return outcome{err: reason(ctx, nil)}
	}
	request.Timeout = remaining(ctx)
	if size := request.size(); size > min(p.cfg.Limit, PipelineLimit) {
		return outcome{err: fmt.Errorf("%w: a frame of %d bytes", ErrPipeline, size)}
	}
	c, _ := p.idle.Get().(*pipelined)
	if c == nil {
		c = &pipelined{outcome: make(chan outcome, 1)}
	}
	defer p.idle.Put(c)
	var err error
	if c.request, err = request.Append(append(c.request[:0], make([]byte, pieceHead)...), p.cfg.Limit); err != nil {
		return outcome{err: err}
	}
	number, err := p.begin(c)
	if err != nil {
		return outcome{err: err}
	}
	binary.BigEndian.PutUint32(c.request, number)
	binary.BigEndian.PutUint16(c.request[4:], uint16(len(c.request)-pieceHead))
	if p.out.Append(c.request) != nil {
		p.mu.Lock()
		delete(p.calls, number)
		p.mu.Unlock()
		select {
		case <-c.outcome: // it was told, too
		default:
		}
		return outcome{err: ErrPipeline}
	}
	select {
	case o := <-c.outcome:
		return o
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case o := <-c.outcome: // a reply that is there beats a context that has ended
		return o
	default:
	}
	p.calls[number] = nil
	p.out.Append(appendPiece(nil, number, Frame{Kind: KindNone}))
	return outcome{sent: true, err: reason(ctx, nil)}
}

// begin gives an exchange a number.
func (p *Pipeline) begin(c *pipelined) (uint32, error) {
	full := p.out.Full()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.err != nil:
		return 0, fmt.Errorf("%w: it has ended: %w", ErrPipeline, p.err)
	case full || len(p.calls) >= MaxPipelined:
		return 0, fmt.Errorf("%w: it is full", ErrPipeline)
	}
	if len(p.calls) == 0 {
		p.since = time.Now()
	}
	p.next++ // with at most MaxPipelined under way, none is met again
	p.calls[p.next] = c
	return p.next, nil
}

// appendPiece appends a frame that fits into one piece.
func appendPiece(b []byte, number uint32, f Frame) []byte {
	b = binary.BigEndian.AppendUint32(b, number)
	b = binary.BigEndian.AppendUint16(b, uint16(4+f.size()))
	b, _ = f.Append(b, 0) // what has no text is well-formed
	return b
}
