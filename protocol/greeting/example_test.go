package greeting_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/protocol/greeting"
)

// The conversation by which alice, who knows bob's address only, comes to know whom bob knows. Each step is an exchange
// here, and calls bob's handler where a program would send it to bob.
func ExampleHandler() {
	alice := newBook(peer(1, "alice"))
	bob := newBook(peer(2, "bob"), peer(3, "carol"), peer(4, "dave"))
	atBob := greeting.Handler(bob, nil)

	exchange := func(ctx context.Context, m protocol.Message) (protocol.Message, error) {
		m.From = alice.self.ID
		reply, err := atBob.Handle(ctx, m)
		reply.From = bob.self.ID
		fmt.Println(m.Operation, "->", reply.Operation)
		return reply, err
	}
	first, err := greeting.ConnectMessage(alice.self)
	if err != nil {
		fmt.Println(err)
		return
	}
	err = protocol.ConverseBy(context.Background(), exchange, first, greeting.Handler(alice, nil), nil)
	fmt.Println("alice knows", strings.Join(alice.names(), ", "), err)
	fmt.Println("bob knows", strings.Join(bob.names(), ", "))
	// Output:
	// connectreq -> connectresp
	// fetchreq -> fetchresp
	// alice knows bob, carol, dave <nil>
	// bob knows alice, carol, dave
}

func ExampleGetMessage() {
	bob := newBook(peer(2, "bob"), peer(3, "carol"))
	m, _ := greeting.GetMessage(peer(3, "").ID, "")
	reply, _ := greeting.Handler(bob, nil).Handle(context.Background(), m)
	peers, err := greeting.ParsePeers(reply)
	fmt.Println(len(peers), peers[0].Name, peers[0].Addrs[0].HostPort, err)
	// Output: 1 carol carol.example:4001 <nil>
}

func ExampleNoticeMessage() {
	bob := newBook(peer(2, "bob"))
	m, _ := greeting.NoticeMessage(greeting.Notice{Change: greeting.Arrived, Peer: peer(3, "carol")})
	m.From = peer(1, "alice").ID
	reply, err := greeting.Handler(bob, nil).Handle(context.Background(), m)
	fmt.Println(reply.Operation, err, bob.names())
	// Output: noticeresp <nil> [carol]
}

func ExampleRegister() {
	var table protocol.Table
	if err := greeting.Register(&table, newBook(peer(2, "bob"))); err != nil {
		fmt.Println(err)
	}
	m, _ := greeting.ConnectMessage(peer(1, "alice"))
	m.From = peer(1, "alice").ID
	reply, _ := table.Handle(context.Background(), m)
	introduced, err := greeting.ParseConnect(reply)
	fmt.Println(reply.Operation, introduced.Name, err)
	// Output: connectresp bob <nil>
}
