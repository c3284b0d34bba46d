package quic

import (
	"crypto/tls"
	"sync"

	quicgo "github.com/quic-go/quic-go"

	"github.com/Blockchain-CN/pheromones/identity"
)

// sessions are what servers gave us to come back with: TLS sessions, which save the certificates, and address tokens,
// which save a round trip while the server is under pressure. Each is kept under the peer that proved itself and the
// address it was dialled at, so that it is never shown to anybody else.
type sessions struct {
	tls    tls.ClientSessionCache
	tokens quicgo.TokenStore
}

func newSessions(n int) *sessions {
	return &sessions{tls: tls.NewLRUClientSessionCache(n), tokens: quicgo.NewLRUTokenStore(n, 2)}
}

// dialSession is the view that one dial has of the sessions. It is also how the dialling side learns that the accepting
// side has finished the handshake: both kinds are sent after that only.
type dialSession struct {
	all  *sessions
	want identity.ID // whom we dial; zero if we do not know, and then nothing is shown
	addr string      // the address dialled, as the caller wrote it

	mu        sync.Mutex
	proved    identity.ID   // who answered; set during the handshake
	confirmed chan struct{} // closed when the first of them comes
	once      sync.Once     // closes confirmed
}

func (s *sessions) dial(want identity.ID, addr string) *dialSession {
	return &dialSession{all: s, want: want, addr: addr, confirmed: make(chan struct{})}
}

// watch makes conf tell s who proves itself, and keep its sessions there.
func (s *dialSession) watch(conf *tls.Config) {
	verify := conf.VerifyConnection
	conf.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := verify(cs); err != nil {
			return err
		}
		id, err := identity.PeerID(cs)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.proved = id
		return err
	}
	conf.ClientSessionCache = tlsSessions{s}
}

// key returns where to look for what is shown, and whether to look at all.
func (s *dialSession) key() (string, bool) { return s.want.String() + "@" + s.addr, !s.want.IsZero() }

// put returns where to keep what came.
func (s *dialSession) put() (key string, ok bool) {
	s.once.Do(func() { close(s.confirmed) })
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proved.String() + "@" + s.addr, !s.proved.IsZero()
}

// tlsSessions implements tls.ClientSessionCache. It ignores the keys of crypto/tls, which are made of server names.
type tlsSessions struct{ *dialSession }

func (s tlsSessions) Get(string) (*tls.ClientSessionState, bool) {
	key, ok := s.key()
	if !ok {
		return nil, false
	}
	return s.all.tls.Get(key)
}

func (s tlsSessions) Put(_ string, state *tls.ClientSessionState) {
	if state == nil { // crypto/tls takes a session back that did not work
		if key, ok := s.key(); ok {
			s.all.tls.Put(key, nil)
		}
		return
	}
	if key, ok := s.put(); ok {
		s.all.tls.Put(key, state)
	}
}

// tokens implements quicgo.TokenStore, whose keys it ignores in the same way.
type tokens struct{ *dialSession }

func (s tokens) Pop(string) *quicgo.ClientToken {
	key, ok := s.key()
	if !ok {
		return nil
	}
	return s.all.tokens.Pop(key)
}

func (s tokens) Put(_ string, token *quicgo.ClientToken) {
	if key, ok := s.put(); ok {
		s.all.tokens.Put(key, token)
	}
}
