package conformance

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// domain is that of the names that the suite has looked up (RFC 6761 §6.2: no real one is below it).
const domain = ".pheromones.test"

// names returns a resolver that knows the given names below domain, and no others. No packet leaves the process.
func (e *env) names(hosts map[string][]netip.Addr) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		e.spawn(func() {
			defer server.Close()
			for answerQuery(server, hosts) == nil {
			}
		})
		return client, nil
	}}
}

// answerQuery answers one query as a name server does over TCP (RFC 1035 §4.2.2).
func answerQuery(c net.Conn, hosts map[string][]netip.Addr) error {
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return err
	}
	query := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, query); err != nil {
		return err
	}
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil {
		return err
	}
	question, err := p.Question()
	if err != nil {
		return err
	}
	answer := dnsmessage.Message{Header: dnsmessage.Header{ID: header.ID, Response: true}, Questions: []dnsmessage.Question{question}}
	name := question.Name.String()
	addrs, known := hosts[name[:max(0, len(name)-len(domain)-1)]]
	if !known {
		answer.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range addrs {
		if question.Type == dnsmessage.TypeA {
			answer.Answers = append(answer.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: question.Name, Type: question.Type, Class: question.Class},
				Body:   &dnsmessage.AResource{A: a.As4()},
			})
		}
	}
	b, err := answer.AppendPack(make([]byte, 2))
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint16(b, uint16(len(b)-2))
	_, err = c.Write(b)
	return err
}

// named is node, for a transport that looks up names by r.
func (e *env) named(r *net.Resolver) *node {
	return e.nodeBy(e.key(), func(key identity.Key) (transport.Transport, error) { return e.h.Names(key, r) })
}

func dialSeveral(e *env) {
	good := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	nobody := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 2}), netip.AddrFrom4([4]byte{127, 0, 0, 3})}
	silent := netip.AddrFrom4([4]byte{127, 0, 0, 4})
	for _, a := range append(nobody, good, silent) {
		probe, err := net.ListenPacket("udp4", netip.AddrPortFrom(a, 0).String())
		if err != nil {
			e.skipf("this machine is not %s", a)
		}
		probe.Close()
	}
	ln := e.listenAt(e.node(), transport.Addr{Scheme: e.traits.Scheme, HostPort: good.String() + ":0"})
	_, port, _ := net.SplitHostPort(ln.Addr().HostPort)
	at := func(name string) transport.Addr {
		addr := ln.Addr()
		addr.HostPort = net.JoinHostPort(name+domain, port)
		return addr
	}
	client := e.named(e.names(map[string][]netip.Addr{
		"last":   {nobody[0], nobody[1], good},
		"first":  {good, nobody[0], nobody[1]},
		"none":   nobody,
		"silent": {silent, good},
		"mute":   {silent, silent},
	}))
	for _, name := range []string{"last", "first"} {
		e.in("the one that listens is the %s of three addresses", name)
		e.exchange(e.stream(e.connectAt(client, ln, at(name))))
	}
	e.in("nobody listens at any address")
	ctx, cancel := context.WithTimeout(e.ctx, e.soon/4)
	defer cancel()
	dial := func(name string) error {
		return e.promptly("Dial", func() error { return dialError(client.Dial(ctx, at(name))) })
	}
	err := dial("none")
	e.wantOp("Dial", err, "dial", at("none"))
	if e.h.Refuses && ctx.Err() != nil {
		e.errorf("Dial: want it to fail before its context ends, got %s", describe(err))
	}
	e.in("the name does not exist")
	ctx, cancel = context.WithTimeout(e.ctx, e.soon/2)
	defer cancel()
	err = dial("unknown")
	e.wantOp("Dial", err, "dial", at("unknown"))
	var dns *net.DNSError
	if !errors.As(err, &dns) || !dns.IsNotFound {
		e.errorf("Dial: want a *net.DNSError that says that the host was not found, got %s", describe(err))
	}
	if e.h.Network != "udp" {
		return // TCP to an address that takes the connection has no second try
	}
	e.in("the first address is silent")
	hole, err := net.ListenPacket("udp4", net.JoinHostPort(silent.String(), port))
	e.must(err, "ListenPacket")
	e.cleanup(func() { hole.Close() })
	e.exchange(e.stream(e.connectAt(client, ln, at("silent"))))
	e.in("every address is silent")
	ctx, cancel = context.WithTimeout(e.ctx, 20*moment)
	defer cancel()
	e.wantContext("Dial", dial("mute"), ctx)
}
