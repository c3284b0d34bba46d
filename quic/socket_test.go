package quic

import (
	"bytes"
	"errors"
	"log"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	quicgo "github.com/quic-go/quic-go"
	"golang.org/x/net/ipv4"

	"github.com/Blockchain-CN/pheromones/transport"
)

// TestSmallBuffers gives quic-go a socket whose buffers are far below what it likes.
func TestSmallBuffers(t *testing.T) {
	var printed bytes.Buffer
	log.SetOutput(&printed)
	defer log.SetOutput(log.Default().Writer())
	key := newKey(t)
	s, err := bind(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"), key, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	const small = 16 << 10
	if err := errors.Join(s.conn.(*packetConn).UDPConn.SetReadBuffer(small), s.conn.(*packetConn).UDPConn.SetWriteBuffer(small)); err != nil {
		t.Fatal(err)
	}
	conf, err := key.ServerTLS(alpn)
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.quic.Listen(conf, &quicgo.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if printed.Len() > 0 {
		t.Errorf("printed: %s", &printed)
	}
	for what, size := range bufferSizes(t, s.conn.(*packetConn).UDPConn) {
		if size > 4*small {
			t.Errorf("quic-go got at the %s buffer: it has %d bytes", what, size)
		}
	}
}

// TestOptimisations checks that the wrapper has not cost quic-go what it can do with a UDP socket.
func TestOptimisations(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("for Linux")
	}
	dialled, _ := pair(t, nil)
	if !dialled.quic.ConnectionState().GSO {
		t.Error("no segmentation offload")
	}
}

func TestSendErrorsAreLosses(t *testing.T) {
	var to netip.AddrPort
	var why error
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	c := newPacketConn(udp, func(a netip.AddrPort, err error) { to, why = a, err })
	// Port 0 is nobody's: the kernel refuses to send there.
	nowhere := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	if n, _, err := c.WriteMsgUDP([]byte("packet"), nil, nowhere); n != 6 || err != nil {
		t.Errorf("WriteMsgUDP: %d, %v; want 6 bytes sent and lost", n, err)
	}
	if to != nowhere.AddrPort() && to != netip.MustParseAddrPort("127.0.0.1:0") || why == nil {
		t.Errorf("told that %v failed with %v", to, why)
	}
	if n, err := c.WriteTo([]byte("packet"), nowhere); n != 6 || err != nil {
		t.Errorf("WriteTo: %d, %v; want 6 bytes sent and lost", n, err)
	}
	if _, _, err := c.WriteMsgUDP(make([]byte, 1<<17), nil, udp.LocalAddr().(*net.UDPAddr)); err == nil && tells() {
		t.Error("a packet that is too large counts as sent")
	}
	udp.Close()
	if _, _, err := c.WriteMsgUDP([]byte("packet"), nil, nowhere); !errors.Is(err, net.ErrClosed) {
		t.Errorf("WriteMsgUDP after Close: %v, want net.ErrClosed", err)
	}
	if _, err := c.ReadBatch([]ipv4.Message{{Buffers: [][]byte{make([]byte, 10)}}}, 0); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ReadBatch after Close: %v, want net.ErrClosed", err)
	}
}

// tells says whether the system tells us of packets that are too large.
func tells() bool { return runtime.GOOS != "freebsd" }

func TestConnOutlivesUnreachability(t *testing.T) {
	dialled, accepted := pair(t, nil)
	// What ICMP and failing sends lead to.
	dialled.socket.unreachable(dialled.socket.local, errors.New("no route"))
	accepted.socket.unreachable(addrPort(accepted.quic.RemoteAddr()), errors.New("no route"))
	exchange(t, dialled, accepted)
}

func TestDialClosedPort(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells")
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		pc, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Logf("no %s here: %v", host, err)
			continue
		}
		addr := transport.Addr{Scheme: scheme, HostPort: pc.LocalAddr().String()}
		tr := newTransport(t, newKey(t), nil)
		var silent silence
		if _, err := dialFor(t, tr, addr, 50*time.Millisecond); err == nil || errors.As(err, &silent) {
			t.Errorf("Dial of a silent port: %v", err)
		}
		pc.Close()
		_, err = tr.Dial(newContext(t), addr)
		var op *transport.OpError
		if !errors.As(err, &op) || op.Addr != addr || !errors.Is(err, errRefused) {
			t.Errorf("Dial: %v, want an OpError of %v that is %v", err, addr, errRefused)
		}
	}
}
