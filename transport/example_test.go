package transport_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"

	"github.com/Blockchain-CN/pheromones/transport"
)

func ExampleParseAddr() {
	addr, err := transport.ParseAddr("quic://25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkena@[2001:DB8::1]:4001")
	fmt.Println(addr.Scheme, addr.HostPort, addr.Peer.Short(), err)

	_, err = transport.ParseAddr("quic://192.0.2.1")
	fmt.Println(err)
	// Output:
	// quic [2001:db8::1]:4001 25njqamc <nil>
	// transport: not an address: "quic://192.0.2.1": missing port in address
}

func ExampleAddr_MarshalText() {
	text, err := json.Marshal(map[string]transport.Addr{"seed": {Scheme: "mux", HostPort: "192.0.2.1:4001"}})
	fmt.Println(string(text), err)
	// Output: {"seed":"mux://192.0.2.1:4001"} <nil>
}

// Whose decision was it, and why?
func ExampleCloseError() {
	err := fmt.Errorf("read: %w", &transport.CloseError{Code: transport.CodeShutdown, Reason: "going home", Remote: true})
	fmt.Println(err)
	fmt.Println("for shutdown:", errors.Is(err, transport.CodeShutdown))
	fmt.Println("by this side:", errors.Is(err, net.ErrClosed))
	// Output:
	// read: transport: connection closed by the peer (shutdown): "going home"
	// for shutdown: true
	// by this side: false
}

func ExampleResetError() {
	const codeBusy = transport.CodeUser + 1
	err := error(&transport.ResetError{Code: codeBusy})
	fmt.Println(err)
	fmt.Println(errors.Is(err, codeBusy), errors.Is(err, net.ErrClosed))
	// Output:
	// transport: stream reset by us (257)
	// true true
}
