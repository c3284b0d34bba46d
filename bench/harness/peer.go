package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Peer is one way of talking that is compared with others.
type Peer struct {
	// Name is short, lower case and without slashes.
	Name string
	// New makes both ends: one that accepts, on loopback, and one that is ready to dial. The former gives each stream that comes to
	// serve, in a goroutine of its own, and answers each call with [Answer].
	New func(o Options, serve func(Stream)) (Network, error)
	// OneStream says that a connection carries one stream: where others open streams, connections are dialled.
	OneStream bool
	// Calls says that connections have Call and nothing else.
	Calls bool
	// Resumes says that the peer can resume sessions.
	Resumes bool
	// DialsOnce says that a Network has one connection, whose cost to set up is not measured.
	DialsOnce bool
}

// Options are what a scenario asks of a Network.
type Options struct{ Sessions Sessions }

// Sessions says whether dialling resumes TLS sessions.
type Sessions int

// What may be asked for.
const (
	Usual  Sessions = iota // as the peer does unless told otherwise
	Never                  // each Dial pays for a full handshake
	Always                 // each Dial but the first few resumes a session
)

// Network is both ends of a peer. Dial may be called from any goroutine at once.
type Network interface {
	// Dial makes a connection, which is authenticated when it returns, or at its first stream at the latest.
	Dial(ctx context.Context) (Conn, error)
	// Close ends what is left, and waits until serve has returned everywhere.
	Close() error
}

// Conn is the dialling end of a connection. Its methods may be called from any goroutine at once.
type Conn interface {
	// Open opens a stream.
	Open(ctx context.Context) (Stream, error)
	// Call makes one exchange, by whatever the peer has for that.
	Call(ctx context.Context, request []byte) (reply []byte, err error)
	Close() error
}

// Resumer is what a Conn may tell about its handshake.
type Resumer interface{ Resumed() bool }

// Stream is a flow of bytes both ways. If it has CloseWrite() error it can be half-closed. What is given to Write is never changed
// afterwards.
type Stream io.ReadWriteCloser

// halfCloser is the ability of a stream to end one direction.
type halfCloser interface{ CloseWrite() error }

// NoCalls is for connections that have streams only.
type NoCalls struct{}

// Call fails.
func (NoCalls) Call(context.Context, []byte) ([]byte, error) {
	return nil, fmt.Errorf("calls: %w", errors.ErrUnsupported)
}

// NoStreams is for connections that have calls only.
type NoStreams struct{}

// Open fails.
func (NoStreams) Open(context.Context) (Stream, error) {
	return nil, fmt.Errorf("streams: %w", errors.ErrUnsupported)
}
