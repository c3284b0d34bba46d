// Package transport is the contract between the programs that talk and the ways of talking: what a connection, a stream
// and an error are, whatever carries them.
//
// # The contract
//
// A [Transport] dials and listens. Either way gives a [Conn]: an encrypted connection whose two ends have proved their
// IDs. A Conn carries [Stream]s, and a Stream is a [net.Conn] that can also be half-closed and reset with a code.
// SPEC.md, section "transport", says clause by clause what every method promises; package conformance checks a transport
// against it.
//
// # Waiting
//
// A context bounds waiting to get something: a connection, a stream. A deadline bounds Read and Write on a stream. When a
// context ends and its result is ready too, the result wins. Every wait also ends when the thing waited on is closed.
//
// # Errors
//
// An end that somebody chose is a [*CloseError] (of a connection) or a [*ResetError] (of a stream): both say the code
// and which side chose it, and errors.Is matches them against a [Code]. An end that nobody chose is a [*LostError]. What
// this side has closed answers with errors that are [net.ErrClosed]; a passed deadline is [os.ErrDeadlineExceeded].
package transport

import (
	"context"
	"net"
	"net/netip"

	"github.com/Blockchain-CN/pheromones/identity"
)

// Transport is one way of reaching peers. Its implementations are checked by conformance.TestTransport. All methods may
// be called at once from any goroutine.
type Transport interface {
	// Dial connects to addr. It returns when the peer has proved its ID, or when it cannot, or when ctx ends. If
	// addr.Peer is set the peer must prove to be it; else any peer will do, and Info tells which one it was. The scheme
	// must be that of Traits. A failure is an *OpError. The peer may still refuse us after Dial has returned: then the
	// connection ends and its streams say why.
	Dial(ctx context.Context, addr Addr) (Conn, error)
	// Listen accepts connections at addr, whose Peer is ignored or ours. Port 0 means any free one. ctx bounds the call,
	// not the listener. A failure is an *OpError.
	Listen(ctx context.Context, addr Addr) (Listener, error)
	// Traits returns what distinguishes this transport. It never changes.
	Traits() Traits
	// Close closes the listeners and connections of the transport, each connection with CodeShutdown, and returns when
	// everything that the transport started has ended. Later calls, and calls under way, fail with net.ErrClosed.
	Close() error
}

// Traits are what a user of any transport may have to know of it.
type Traits struct {
	// Scheme is the scheme of the transport's addresses.
	Scheme string
	// LocalPeer is the ID of the key that the transport was made with.
	LocalPeer identity.ID
	// OneStream says that a connection carries one stream, opened by the side that dialled, and ends with it. Opening a
	// second stream, or one from the accepting side, fails with errors.ErrUnsupported.
	OneStream bool
	// Indirect says that connections go through a third node. Their addresses are tried beside the others, not after them, since
	// they are slower but more likely to work.
	Indirect bool
}

// Listener accepts the connections that peers dial. All methods may be called at once from any goroutine.
type Listener interface {
	// Accept returns the next connection whose handshake is done. It waits until there is one, ctx ends, or the listener
	// or its transport is closed. Connections whose handshake fails or takes too long are never seen here.
	Accept(ctx context.Context) (Conn, error)
	// Addr returns the address the listener is bound to, with its real port and our ID.
	Addr() Addr
	// Close stops accepting. Connections already accepted live on; those not yet accepted are closed with CodeRefused.
	// Closing twice is no error.
	Close() error
}

// Conn is a connection between two peers that have proved their IDs. All methods may be called at once from any
// goroutine.
type Conn interface {
	// OpenStream opens a stream. It waits, while the peer has as many of our streams as it admits, until it may, ctx
	// ends, or the connection ends. The peer sees the stream at its first Write, CloseWrite or Reset at the latest.
	OpenStream(ctx context.Context) (Stream, error)
	// AcceptStream returns the next stream that the peer opened, in the order it opened them as far as the network keeps
	// it. It waits until there is one, ctx ends, or the connection ends.
	AcceptStream(ctx context.Context) (Stream, error)
	// Info describes the connection.
	Info() Info
	// Context ends when the connection does; context.Cause then is a *CloseError or a *LostError.
	Context() context.Context
	// CloseWithError ends the connection and all its streams at once; what was written but not yet read may be lost. The
	// other side's calls fail with a *CloseError that carries code and reason; a reason beyond MaxReason bytes is cut.
	// It returns soon, whatever the peer does, and closing an ended connection is no error and changes nothing.
	CloseWithError(code Code, reason string) error
}

// MaxReason bounds, in bytes, the reason of a CloseWithError.
const MaxReason = 512

// Info describes a connection.
type Info struct {
	LocalPeer, RemotePeer identity.ID
	LocalAddr, RemoteAddr Addr // with the peer's ID; the remote port of an accepted connection need not be one that listens
	Dialer                bool // whether this side dialled
	Resumed               bool // whether the handshake resumed an earlier session instead of paying for a new one
}

// Stream is an ordered, reliable flow of bytes in both directions. Reading and writing are independent of each other and
// any method may be called at once from any goroutine; bytes of concurrent Writes are not interleaved.
//
// Addresses are of type Addr. Read returns io.EOF when, and only when, the peer has ended its side by CloseWrite or Close
// and all bytes before that were read. Write copies its bytes or has sent them when it returns: the slice stays the
// caller's. While the peer does not read, Write blocks once a bounded number of bytes is under way.
type Stream interface {
	// Conn's Close ends both directions for this side: what was written is still delivered, followed by io.EOF; what was
	// not read is dropped, and the peer's writes fail, with CodeClosed. Calls under way and later ones fail with
	// net.ErrClosed. Closing again is no error.
	net.Conn
	// CloseWrite ends the direction towards the peer, which reads io.EOF after the data. Later Writes fail with
	// net.ErrClosed, later calls are no error, and reading goes on as before.
	CloseWrite() error
	// Reset ends both directions at once and drops what is under way. The peer's reads and writes fail with a *ResetError
	// that carries code and says Remote; ours, under way and later, with one that does not. A stream that is already
	// closed in both directions, or reset, stays as it is; that is no error.
	Reset(code Code) error
}

// Signer is the optional ability of a Transport to sign with the key that it was made with.
type Signer interface {
	// Sign returns the ed25519 signature (RFC 8032) of message. The caller begins message with what it is for, so that no
	// signature can pass for one that was made for something else.
	Sign(message []byte) []byte
}

// DatagramConn is the optional ability of a Conn to carry datagrams: unordered, unreliable, at most once.
type DatagramConn interface {
	// SendDatagram sends p, which stays the caller's. It does not wait for delivery. It fails if p is larger than the path
	// carries at the moment, and when the connection has ended.
	SendDatagram(p []byte) error
	// ReceiveDatagram returns the next datagram, which is the caller's. It waits until there is one, ctx ends, or the
	// connection ends.
	ReceiveDatagram(ctx context.Context) ([]byte, error)
}

// PortDialer is the optional ability of a Listener to dial from its own port. Two peers behind NATs that do this at once to each
// other's addresses make one connection (TCP's simultaneous open, RFC 9293 §3.5), as each NAT takes the other's packets for
// answers.
type PortDialer interface {
	// DialFrom connects the listener's port with an address, an IP and a port. It tries until ctx ends, so ctx should; and returns
	// when the peer, which must do the same with this side's address, has proved its ID, the one of addr if that is set. Which side
	// came first does not matter. Exactly one of them must accept: it is the one that does not count as the dialler, as if the
	// connection had come to Accept. It fails with ctx's error joined with the last reason, ErrBadAddr, an error that wraps
	// errors.ErrUnsupported where the system cannot do it, ErrClosed after Close, and at once if another peer answers, or if the
	// same address is being dialled. It fails, too, where there is a connection between the port and the address already: the peer
	// may have been so early that it counts as an ordinary dialler, and has come to Accept. It may be called from any goroutine at
	// once.
	DialFrom(ctx context.Context, addr Addr, accepts bool) (Conn, error)
}

// Tunneler is the optional ability of a Listener to carry connections by another way than its own, such as a relay.
type Tunneler interface {
	// NewTunnel returns a way to a peer for packets of at most 1400 bytes, which may be lost, doubled or late. What the transport
	// sends is given to send, which must not wait, may be called from any goroutine and keeps nothing of p. Connections whose path
	// is the tunnel have label as their Info's RemoteAddr. It fails when the listener is closed.
	NewTunnel(label Addr, send func(p []byte) error) (Tunnel, error)
}

// Tunnel is what a [Tunneler] makes. All methods may be called at once from any goroutine.
type Tunnel interface {
	// Deliver takes in a packet that has come, which stays the caller's. It does not wait, and may drop it.
	Deliver(p []byte)
	// Dial connects to the peer at the other end, as [Transport].Dial does. Connections that the peer dials are the listener's to accept.
	Dial(ctx context.Context, peer identity.ID) (Conn, error)
	// Close ends the tunnel. Connections whose path it is are lost; those that have moved elsewhere live on. Closing twice is no error.
	Close() error
}

// Migrator is the optional ability of a Conn to move to another path under its streams. The side that dialled moves, the other
// follows. All methods may be called at once from any goroutine.
type Migrator interface {
	// Migrate moves the connection to an address of the peer's and returns when the peer has answered from there. Any error means
	// that it stays where it was; on the side that accepted the connection it wraps errors.ErrUnsupported.
	Migrate(ctx context.Context, to netip.AddrPort) error
	// MigrateTunnel moves the connection to a tunnel of the port that it was dialled from, in the same way.
	MigrateTunnel(ctx context.Context, t Tunnel) error
	// Standby opens a path by a tunnel beside the one in use, and keeps it there. It returns when the peer has answered by it.
	Standby(ctx context.Context, t Tunnel) error
	// Flip moves the connection at once to the path on standby, which is the last one opened by Standby or left by Migrate,
	// MigrateTunnel or Flip. It fails if there is none.
	Flip() error
	// Path returns the address to which packets go at present; the zero AddrPort if they go by a tunnel.
	Path() netip.AddrPort
	// Packets returns how many packets the connection has sent and received so far. If the former grows for a while and the latter
	// does not, the path is dead.
	Packets() (sent, received uint64)
}
