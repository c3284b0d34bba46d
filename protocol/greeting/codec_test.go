package greeting

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/protocol"
	"github.com/Blockchain-CN/pheromones/transport"
)

type vectorPeer struct {
	ID, Name string
	Seq      uint64
	Addrs    []string
}

type vector struct {
	Operation, Description, Hex, Error, ID, Name, Answerer, Asker string
	Flags                                                         uint8
	Peers                                                         []vectorPeer
	Changes                                                       []Change
	Again                                                         *bool
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func toID(t testing.TB, s string) (id identity.ID) {
	copy(id[:], unhex(t, s))
	return id
}

func (v vector) peers(t testing.TB) (peers []Peer) {
	for _, p := range v.Peers {
		q := Peer{ID: toID(t, p.ID), Seq: p.Seq, Name: p.Name}
		for _, text := range p.Addrs {
			a, err := transport.ParseAddr(text)
			if err != nil {
				t.Fatal(err)
			}
			a.Peer = q.ID
			q.Addrs = append(q.Addrs, a)
		}
		peers = append(peers, q)
	}
	return peers
}

// parse returns what a message carries, and the message that carries it.
func parse(operation string, data []byte) (v any, again protocol.Message, err error) {
	m := protocol.Message{Operation: operation, Data: data}
	switch operation {
	case OpConnectReq, OpConnectResp:
		var p Peer
		if p, err = ParseConnect(m); err == nil {
			again, err = selfMessage(operation, p)
		}
		return []Peer{p}, again, err
	case OpGetReq:
		id, name, err := parseGet(data)
		if err == nil {
			again, err = GetMessage(id, name)
		}
		return Peer{ID: id, Name: name}, again, err
	case OpGetResp:
		peers, err := ParsePeers(m)
		if err == nil {
			again, err = peersMessage(operation, peers)
		}
		return peers, again, err
	case OpFetchReq, OpFetchResp:
		p, err := parsePage(data)
		if err == nil {
			again, err = p.message(operation)
		}
		return p, again, err
	}
	notices, err := ParseNotice(m)
	if err == nil {
		again, err = NoticeMessage(notices...)
	}
	return notices, again, err
}

func (v vector) want(t testing.TB) any {
	peers := v.peers(t)
	switch v.Operation {
	case OpGetReq:
		return Peer{ID: toID(t, v.ID), Name: v.Name}
	case OpFetchReq, OpFetchResp:
		return page{v.Flags, toID(t, v.Answerer), toID(t, v.Asker), peers}
	case OpNoticeReq:
		var notices []Notice
		for i, p := range peers {
			notices = append(notices, Notice{v.Changes[i], p})
		}
		return notices
	}
	return peers
}

func vectors(t testing.TB) (vs []vector) {
	t.Helper()
	text, err := os.ReadFile("testdata/messages.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &vs); err != nil {
		t.Fatal(err)
	}
	return vs
}

func TestVectors(t *testing.T) {
	sentinels := map[string]error{"malformed": protocol.ErrMalformed, "version": protocol.ErrVersion}
	for _, v := range vectors(t) {
		t.Run(v.Operation+" "+v.Description, func(t *testing.T) {
			b := unhex(t, v.Hex)
			got, again, err := parse(v.Operation, b)
			if v.Error != "" {
				if !errors.Is(err, sentinels[v.Error]) {
					t.Errorf("parsed as %+v, %v; want %v", got, err, sentinels[v.Error])
				}
				return
			}
			if want := v.want(t); err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("parsed as %+v, %v; want %+v", got, err, want)
			}
			if v.Again == nil && (!bytes.Equal(again.Data, b) || again.Operation != v.Operation) {
				t.Errorf("written as %s %x, want %x", again.Operation, again.Data, b)
			}
			for n := range b {
				if v.Again != nil {
					break
				}
				if got, _, err := parse(v.Operation, b[:n]); !errors.Is(err, protocol.ErrMalformed) {
					t.Errorf("%d bytes of %d are parsed as %+v, %v; want ErrMalformed", n, len(b), got, err)
				}
			}
		})
	}
}

func FuzzMessages(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.Operation, unhex(f, v.Hex))
	}
	f.Fuzz(func(t *testing.T, operation string, data []byte) {
		got, m, err := parse(operation, data)
		if err != nil {
			if !errors.Is(err, protocol.ErrMalformed) && !errors.Is(err, protocol.ErrVersion) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		again, _, err := parse(operation, m.Data)
		if err != nil || !reflect.DeepEqual(got, again) {
			t.Fatalf("%+v became %+v, %v", got, again, err)
		}
	})
}

func TestAppendRefuses(t *testing.T) {
	id := identity.ID{1}
	addr := func(a transport.Addr) Peer { return Peer{ID: id, Addrs: []transport.Addr{a}} }
	for _, test := range []struct {
		name string
		peer Peer
	}{
		{"zero ID", Peer{}},
		{"long name", Peer{ID: id, Name: strings.Repeat("x", 256)}},
		{"name not UTF-8", Peer{ID: id, Name: "\xff"}},
		{"zero address", addr(transport.Addr{})},
		{"no address", addr(transport.Addr{Scheme: "tcp", HostPort: "nowhere"})},
		{"another form", addr(transport.Addr{Scheme: "tcp", HostPort: "[2001:DB8::1]:1"})},
		{"another peer's address", addr(transport.Addr{Scheme: "tcp", HostPort: "h:1", Peer: identity.ID{2}})},
	} {
		if m, err := ConnectMessage(test.peer); !errors.Is(err, protocol.ErrMalformed) || !m.IsNone() {
			t.Errorf("%s: ConnectMessage gives %+v, %v; want ErrMalformed", test.name, m, err)
		}
	}
	if _, err := GetMessage(identity.ID{}, ""); !errors.Is(err, protocol.ErrMalformed) {
		t.Errorf("GetMessage of nothing: %v", err)
	}
	if _, err := NoticeMessage(); !errors.Is(err, protocol.ErrMalformed) {
		t.Errorf("NoticeMessage of nothing: %v", err)
	}
	if _, err := NoticeMessage(Notice{4, Peer{ID: id}}); !errors.Is(err, protocol.ErrMalformed) {
		t.Errorf("NoticeMessage of change 4: %v", err)
	}
	if _, err := NoticeMessage(make([]Notice, 65)...); !errors.Is(err, protocol.ErrMalformed) {
		t.Errorf("NoticeMessage of 65: %v", err)
	}
	if _, err := ParsePeers(protocol.Message{Operation: protocol.OpUnknown}); !errors.Is(err, protocol.ErrMalformed) {
		t.Errorf("ParsePeers of unknownop: %v", err)
	}
}

func TestAddressesBeyondTheBound(t *testing.T) {
	p := Peer{ID: identity.ID{1}}
	for range MaxAddrs + 5 {
		p.Addrs = append(p.Addrs, transport.Addr{Scheme: "tcp", HostPort: "h:1"})
	}
	m, err := ConnectMessage(p)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := ParseConnect(m); err != nil || len(p.Addrs) != MaxAddrs || p.Addrs[0].Peer != p.ID {
		t.Errorf("%d addresses arrive, %v, want %d of the peer", len(p.Addrs), err, MaxAddrs)
	}
}

func bigPeers(n int) (peers []Peer) {
	for i := range n {
		p := Peer{ID: identity.ID{1: byte(i >> 8), 2: byte(i), 3: 1}, Seq: math.MaxUint64, Name: strings.Repeat("n", 255)}
		for range MaxAddrs {
			p.Addrs = append(p.Addrs, transport.Addr{Scheme: "tcp", HostPort: strings.Repeat("host.", 49) + "example:65535"})
		}
		peers = append(peers, p)
	}
	return peers
}

// A message is full when it has MaxPeers, or about 32 KiB, and never without anything.
func TestFit(t *testing.T) {
	big := bigPeers(70)
	small := make([]Peer, 70)
	for i := range small {
		small[i].ID = identity.ID{byte(i + 1)}
	}
	for _, test := range []struct {
		name  string
		peers []Peer
		want  int
	}{
		{"none", nil, 0}, {"one that is big", big[:1], 1}, {"big", big, 7}, {"small", small, 64}, {"small, all", small[:64], 64},
	} {
		first, all := fit(test.peers)
		if len(first) != test.want || all != (test.want == len(test.peers)) {
			t.Errorf("%s: %d fit, all: %v; want %d of %d", test.name, len(first), all, test.want, len(test.peers))
		}
		data, err := appendPeers(nil, first)
		if err != nil || len(data) > pageBytes+16<<10 {
			t.Errorf("%s: %d bytes, %v", test.name, len(data), err)
		}
		var notices []Notice
		for _, p := range test.peers {
			notices = append(notices, Notice{Arrived, p})
		}
		var joined []Notice
		for i, part := range FitNotices(notices) {
			m, err := NoticeMessage(part...)
			if err != nil || len(m.Data) > pageBytes+16<<10 {
				t.Errorf("%s: part %d: %d bytes, %v", test.name, i, len(m.Data), err)
			}
			joined = append(joined, part...)
		}
		if !reflect.DeepEqual(joined, notices) {
			t.Errorf("%s: the parts are not the whole", test.name)
		}
	}
	// peerSize never says less than it is.
	for _, p := range append(big[:1:1], small[0]) {
		if b, _ := appendPeer(nil, p); peerSize(p) < len(b) {
			t.Errorf("peerSize = %d, the entry has %d", peerSize(p), len(b))
		}
	}
}

func TestSupersedes(t *testing.T) {
	fact := func(c Change, seq uint64) Notice { return Notice{c, Peer{Seq: seq}} }
	for _, test := range []struct {
		n, old Notice
		want   bool
	}{
		{fact(Arrived, 2), fact(Arrived, 1), true}, {fact(Arrived, 1), fact(Arrived, 1), false}, {fact(Arrived, 1), fact(Left, 2), false},
		{fact(Left, 1), fact(Arrived, 1), true}, {fact(Arrived, 1), fact(Left, 1), false}, {fact(Left, 1), fact(Left, 1), false},
		{fact(Changed, 1), fact(Arrived, 1), false}, {fact(Arrived, 3), fact(Left, 2), true},
	} {
		if got := test.n.Supersedes(test.old); got != test.want {
			t.Errorf("%v of seq %d supersedes %v of seq %d: %v", test.n.Change, test.n.Peer.Seq, test.old.Change, test.old.Peer.Seq, got)
		}
	}
}
