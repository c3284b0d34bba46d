package tlsnet

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/Blockchain-CN/pheromones/internal/outq"
	"github.com/Blockchain-CN/pheromones/transport"
)

// linger bounds how long an ended connection waits for the peer to hear of it.
const linger = time.Second

// flush bounds how long a connection that ended with its purpose goes on sending what is queued: 64 KiB, more or less.
const flush = time.Minute

// queueMark is how many bytes of streams may wait for the network: enough to keep it busy, and few enough that a small
// exchange beside a bulk transfer does not wait long.
const queueMark = 64 << 10

// ProtocolError says what a peer did wrong.
type ProtocolError string

func (e ProtocolError) Error() string { return string(e) }

// Link is what the connections of both transports over TCP share: the queue towards the peer, and how it all ends. The
// connection that embeds it reads from Raw and must tell the link by [Link.Stopped] when that fails. It is safe for
// concurrent use.
type Link struct {
	Raw *tls.Conn
	Out *outq.Queue

	info       transport.Info
	closeFrame func(code transport.Code, reason string) []byte
	fail       func(err error)
	ctx        context.Context
	cancel     context.CancelCauseFunc

	mu    sync.Mutex
	over  bool
	whole bool // it ended by Finish
}

// Init prepares the link of a finished handshake, whose queue takes its buffers from pool. closeFrame encodes the words that end a
// connection; fail is called once, without locks, when the connection ends otherwise than by Finish, after Context has ended.
func (l *Link) Init(raw *tls.Conn, info transport.Info, pool *outq.Pool,
	closeFrame func(transport.Code, string) []byte, fail func(error)) {
	l.Raw, l.info, l.closeFrame, l.fail = raw, info, closeFrame, fail
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	l.Out = outq.New(newWriter(raw, pool), queueMark, pool, func(err error) {
		l.end(&transport.LostError{Err: err}, false, func() {})
		l.Raw.NetConn().Close()
	})
}

// Info implements [transport.Conn].
func (l *Link) Info() transport.Info { return l.info }

// Context implements [transport.Conn].
func (l *Link) Context() context.Context { return l.ctx }

// Cut reports whether the connection has ended otherwise than by Finish.
func (l *Link) Cut() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over && !l.whole
}

// CloseWithError implements [transport.Conn].
func (l *Link) CloseWithError(code transport.Code, reason string) error {
	reason = transport.CutReason(reason)
	l.EndWith(&transport.CloseError{Code: code, Reason: reason}, code, reason)
	return nil
}

// EndWith ends the connection for the cause err and tells the peer code and reason.
func (l *Link) EndWith(err error, code transport.Code, reason string) {
	l.end(err, false, func() {
		l.Hurry()
		l.Out.Close(transport.ErrClosed, l.closeFrame(code, reason), l.closeWrite)
	})
}

// Finish ends the connection because what it was for is done. What was queued for the peer is still sent.
func (l *Link) Finish() {
	l.end(&transport.CloseError{Code: transport.CodeNone}, true, func() {
		l.Raw.NetConn().SetDeadline(time.Now().Add(flush))
		l.Out.Finish(transport.ErrClosed, func() {
			l.closeWrite()
			l.Hurry()
		})
	})
}

// Hurry gives what is left to be sent to, or heard from, the peer of an ended connection a second.
func (l *Link) Hurry() { l.Raw.NetConn().SetDeadline(time.Now().Add(linger)) }

// end makes err the cause of the connection's end, unless there is one. out then ends the queue, before the streams fail: what their
// users say to that, a reset for instance, must not reach the peer ahead of the cause.
func (l *Link) end(err error, whole bool, out func()) {
	l.mu.Lock()
	if l.over {
		l.mu.Unlock()
		return
	}
	l.over, l.whole = true, whole
	l.cancel(err)
	l.mu.Unlock()
	out()
	if !whole {
		l.fail(err)
	}
}

// closeWrite tells the peer that nothing more comes. It runs after the last write.
func (l *Link) closeWrite() {
	if l.Raw.CloseWrite() != nil {
		l.Raw.NetConn().Close()
	}
}

// Stopped ends the connection because reading from Raw ended with err: a *transport.CloseError that the peer sent, a
// [ProtocolError] of the peer, or what the network said. It returns when the network connection is closed. If our side has
// ended the connection before, its reader goes on until Raw ends, so that the peer's last packets are not answered with a
// reset that destroys ours.
func (l *Link) Stopped(err error) {
	var closed *transport.CloseError
	var wrong ProtocolError
	switch {
	case errors.As(err, &closed):
		l.stop(closed)
	case errors.As(err, &wrong):
		l.CloseWithError(transport.CodeProtocol, wrong.Error())
		io.Copy(io.Discard, l.Raw)
	default:
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		l.stop(&transport.LostError{Err: err})
	}
	l.Out.Wait()
	l.Raw.NetConn().Close()
}

func (l *Link) stop(err error) {
	l.end(err, false, func() {
		l.Hurry()
		l.Out.Close(err, nil, l.closeWrite)
	})
}
