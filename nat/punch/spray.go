package punch

import (
	"crypto/hmac"
	"crypto/sha256"
	"math/rand/v2"
	"net/netip"
	"time"
)

// Mapping is how a NAT chooses the port by which a socket is seen (RFC 4787 §4.1), as far as it is known.
type Mapping byte

const (
	// UnknownMapping: too little was observed.
	UnknownMapping Mapping = 0
	// IndependentMapping: the same one whoever sees it, as without a NAT.
	IndependentMapping Mapping = 1
	// DependentMapping: another one for each address that it sends to.
	DependentMapping Mapping = 2
)

const (
	// MaxSockets is how many further sockets a machine uses at most.
	MaxSockets = 256
	// MaxGuesses is how many ports of the peer a machine guesses at most.
	MaxGuesses = 2048

	// knownAfter and unknownAfter are how long the simple way gets before ports are guessed: if the NATs are known to want it, and if not.
	knownAfter   = 300 * time.Millisecond
	unknownAfter = time.Second
	// guessAfter is how much later guessing begins than opening: the peer's sockets have to be there, and ours before our NAT runs out of ports.
	guessAfter = 200 * time.Millisecond
	// sprayPause is the pause between two turns. In one turn so many sockets send, and so many ports are guessed:
	sprayPause     = 5 * time.Millisecond
	socketsATurn   = 4
	guessesATurn   = 2
	socketRounds   = 2 // how often each socket sends
	roundPause     = 1500 * time.Millisecond
	neighbours     = 8 // ports above the one seen that are guessed first: some NATs count
	firstGuessable = 1024
)

// spray is how a machine gets through when one side's NAT gives it another port for each address, and the other's lets in nobody
// but whom it has sent to: the one opens many sockets and sends from each of them to the other, which guesses ports. With 256 open,
// about every 250th guess hits one. What hits is met like any other packet. Neither may know which side it is; then both do both.
type spray struct {
	after     time.Time // when the simple way has had its time; zero: nothing is known of the peer
	outside   []netip.AddrPort
	mapping   Mapping
	permitted bool
	sockets   int // how many there may be

	socket, round int
	socketNext    time.Time
	guesses       int
	guessNext     time.Time
	order         func() uint16
}

// Peer tells the machine how the peer is seen from outside, by IPv4, at the addresses that [Usable] has left of those, and how its
// NAT maps. Only then can it be [Machine.Stuck].
func (m *Machine) Peer(now time.Time, outside []netip.AddrPort, mapping Mapping) {
	s := &m.spray
	s.mapping = mapping
	s.outside = nil
	for _, a := range outside {
		if a.Addr().Is4() {
			s.outside = append(s.outside, a)
		}
	}
	if !s.after.IsZero() || len(s.outside) == 0 {
		return
	}
	s.after = now.Add(unknownAfter)
	if mapping != UnknownMapping && m.cfg.Mapping != UnknownMapping {
		s.after = now.Add(knownAfter)
	}
}

// Stuck reports whether the simple way has failed, guessing may do better, and [Machine.Guess] has not been called yet.
func (m *Machine) Stuck(now time.Time) bool {
	return m.mayGuess() && !m.spray.permitted && !now.Before(m.spray.after) && now.Before(m.end)
}

// mayGuess reports whether guessing may do any good.
func (m *Machine) mayGuess() bool {
	s := &m.spray
	return !m.works.Remote.IsValid() && !s.after.IsZero() && len(s.outside) > 0 && (m.opens() || m.guesses())
}

// Guess permits the machine to guess ports, and to use further sockets, as many as given and [MaxSockets] at most, for a peer that
// guesses. It sends then up to two packets from each and [MaxGuesses] others.
func (m *Machine) Guess(now time.Time, sockets int) {
	s := &m.spray
	if s.permitted {
		return
	}
	s.permitted, s.sockets = true, min(sockets, MaxSockets)
	s.socketNext, s.guessNext = now, now.Add(guessAfter)
	// Who sees the guesses learns nothing of the key.
	seed := hmac.New(sha256.New, m.cfg.Key[:])
	seed.Write([]byte{'g', 'u', 'e', 's', 's', boolByte(m.cfg.Controlled)})
	s.order = permutation(rand.New(rand.NewChaCha8([32]byte(seed.Sum(nil)))))
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// permutation returns a function that yields the ports from firstGuessable up, each once, and then 0.
func permutation(r *rand.Rand) func() uint16 {
	moved := make(map[int]int) // what a shuffle has put elsewhere
	at := func(i int) int {
		if v, ok := moved[i]; ok {
			return v
		}
		return i
	}
	n := 1<<16 - firstGuessable
	return func() uint16 {
		if n == 0 {
			return 0
		}
		i := r.IntN(n)
		v := at(i)
		n--
		moved[i] = at(n)
		delete(moved, n)
		return uint16(firstGuessable + v)
	}
}

// opens and guesses report which part this side has: both, if it may be either.
func (m *Machine) opens() bool {
	return m.cfg.Mapping != IndependentMapping && m.spray.mapping != DependentMapping
}

func (m *Machine) guesses() bool {
	return m.cfg.Mapping != DependentMapping && m.spray.mapping != IndependentMapping
}

// pollSpray adds to what Poll returns.
func (m *Machine) pollSpray(now time.Time, packets []Packet, next time.Time) ([]Packet, time.Time) {
	s := &m.spray
	if !m.mayGuess() {
		return packets, next
	}
	if !s.permitted {
		if now.Before(s.after) && s.after.Before(next) {
			next = s.after // to ask Stuck then
		}
		return packets, next
	}
	to := s.outside[0]
	sooner := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	if m.opens() && s.sockets > 0 && s.round < socketRounds {
		for i := 0; i < socketsATurn && s.round < socketRounds && !now.Before(s.socketNext); i++ {
			s.socket++
			packets = append(packets, m.fling(Path{s.socket, to}))
			if s.socket >= s.sockets {
				s.socket, s.round = 0, s.round+1
				s.socketNext = now.Add(roundPause)
			}
		}
		if !now.Before(s.socketNext) {
			s.socketNext = now.Add(sprayPause)
		}
		if s.round < socketRounds {
			sooner(s.socketNext)
		}
	}
	if m.guesses() && s.guesses < MaxGuesses {
		for i := 0; i < guessesATurn && s.guesses < MaxGuesses && !now.Before(s.guessNext); i++ {
			s.guesses++
			port := to.Port() + uint16(s.guesses)
			if s.guesses > neighbours || port < firstGuessable {
				port = s.order()
			}
			packets = append(packets, m.fling(Path{Remote: netip.AddrPortFrom(to.Addr(), port)}))
		}
		if !now.Before(s.guessNext) {
			s.guessNext = now.Add(sprayPause)
		}
		sooner(s.guessNext)
	}
	return packets, next
}
