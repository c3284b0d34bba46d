package router

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// world is two nodes, the links between them and all that is on its way: every step that could happen next is a choice of the
// test, which may try them all.
type world struct {
	sides [2]side
	links []*cable
	dials [2]int // how many each side may still begin
	opens [2]int // streams likewise
	kills int    // links that may still be cut
	lives [2]int // restarts that may still happen

	serial uint32
	cut    bool // a link was cut or a side restarted: whatever ran on it was lost honestly
}

type side struct {
	t    *tiebreak
	life uint64
}

// cable is a connection between the two sides.
type cable struct {
	dialer int
	begun  rank
	knew   []*cable // links that had proved to work when the dialer dialled
	lives  [2]uint64
	end    [2]*candidate // nil before that side has it
	came   [2]bool       // the side has had it
	dead   bool
	ctrl   [2][]message // to each side, in order
	fresh  [2]int       // streams opened towards each side that it has not seen
	served [2]int       // streams under way at the side that accepted them
	asked  [2]int       // streams under way at the side that opened them
}

type message struct {
	kind               byte // h, r, p
	life               uint64
	generation, serial uint32
	p                  pledge
}

func newWorld(dials, opens [2]int, kills int, lives [2]int) *world {
	w := &world{dials: dials, opens: opens, kills: kills, lives: lives}
	for i := range w.sides {
		w.sides[i] = side{&tiebreak{smaller: i == 0}, uint64(10 + i)}
	}
	return w
}

// clone copies the world, so that another future can be tried.
func (w *world) clone() *world {
	v := *w
	v.links = nil
	was := make(map[*candidate]*candidate)
	for _, l := range w.links {
		m := *l
		for i := range m.end {
			if m.end[i] != nil {
				c := *m.end[i]
				if c.peer != nil {
					p := *c.peer
					c.peer = &p
				}
				was[m.end[i]], m.end[i] = &c, &c
			}
			m.ctrl[i] = slices.Clone(m.ctrl[i])
		}
		m.knew = nil
		for _, other := range l.knew {
			m.knew = append(m.knew, v.links[slices.Index(w.links, other)])
		}
		v.links = append(v.links, &m)
	}
	for i := range v.sides {
		t := *w.sides[i].t
		t.links = slices.Clone(t.links)
		for j, c := range t.links {
			t.links[j] = was[c]
		}
		t.winner = was[t.winner]
		v.sides[i].t = &t
	}
	return &v
}

// key tells worlds apart.
func (w *world) key() string {
	b := make([]byte, 0, 512)
	num := func(ns ...int) {
		for _, n := range ns {
			b = binary.AppendVarint(b, int64(n))
		}
	}
	flag := func(fs ...bool) {
		for _, f := range fs {
			if f {
				b = append(b, 1)
			} else {
				b = append(b, 0)
			}
		}
	}
	number := make(map[*candidate]int, 2*len(w.links))
	num(w.dials[0], w.dials[1], w.opens[0], w.opens[1], w.kills, w.lives[0], w.lives[1])
	flag(w.cut)
	for i, l := range w.links {
		num(l.dialer, int(l.begun.generation), int(l.begun.serial), len(l.knew), int(l.lives[0]), int(l.lives[1]))
		flag(l.came[0], l.came[1], l.dead)
		num(l.fresh[0], l.fresh[1], l.served[0], l.served[1], l.asked[0], l.asked[1])
		for j, c := range l.end {
			num(len(l.ctrl[j]))
			for _, m := range l.ctrl[j] {
				num(int(m.kind), int(m.life), int(m.generation), int(m.serial), int(m.p.opened), int(m.p.finished))
			}
			flag(c == nil)
			if c == nil {
				continue
			}
			number[c] = i + 1
			num(int(c.rank.generation), int(c.rank.serial), int(c.incarnation), c.active, int(c.opened), int(c.finished), int(c.told.opened), int(c.told.finished))
			flag(c.proven, c.closing, c.leaving, c.consent, c.peer == nil)
			if c.peer != nil {
				num(int(c.peer.opened), int(c.peer.finished))
			}
		}
	}
	for _, s := range w.sides {
		num(int(s.life), int(s.t.incarnation), int(s.t.generation), number[s.t.winner], len(s.t.links))
		flag(s.t.any)
		for _, c := range s.t.links {
			num(number[c])
		}
	}
	return string(b)
}

// step is something that could happen next.
type step struct {
	format     string
	link, side int
	do         func() error
}

func (s step) String() string { return fmt.Sprintf(s.format, s.side, s.link) }

// steps returns all that could happen next.
func (w *world) steps() []step {
	var out []step
	add := func(format string, n, i int, do func() error) { out = append(out, step{format, n, i, do}) }
	for i := range w.sides {
		s := &w.sides[i]
		if w.dials[i] > 0 {
			add("side %d dials", 0, i, func() error {
				w.dials[i]--
				w.serial++
				l := &cable{dialer: i, begun: rank{generation: s.t.dialling(true), serial: w.serial}}
				for j := range w.sides {
					l.lives[j] = w.sides[j].life
				}
				for _, other := range w.links {
					if c := other.end[i]; c != nil && c.proven {
						l.knew = append(l.knew, other)
					}
				}
				w.links = append(w.links, l)
				return nil
			})
		}
		if w.opens[i] > 0 && s.t.best() != nil {
			add("side %d opens a stream", 0, i, func() error {
				w.opens[i]--
				c := s.t.best()
				c.active++
				c.opened++
				l := w.of(c)
				l.asked[i]++
				if !l.dead && !l.lost(1-i, w) {
					l.fresh[1-i]++
				}
				return nil
			})
		}
		if w.lives[i] > 0 {
			add("side %d restarts", 0, i, func() error {
				w.lives[i]--
				w.cut = true
				*s = side{&tiebreak{smaller: i == 0}, s.life + 100}
				for _, l := range w.links {
					l.end[i], l.came[i], l.dead = nil, true, true
					l.ctrl, l.fresh = [2][]message{}, [2]int{}
				}
				return nil
			})
		}
	}
	for n, l := range w.links {
		if !l.dead && w.kills > 0 {
			add("link %[2]d is cut", n, 0, func() error {
				w.kills--
				w.cut = true
				w.cutLink(l)
				return nil
			})
		}
		for i := range w.sides {
			t := w.sides[i].t
			switch c := l.end[i]; {
			case !l.came[i] && !l.dead:
				add("at side %d comes up link %d", n, i, func() error {
					l.came[i] = true
					c := &candidate{dialed: i == l.dialer}
					if c.dialed {
						c.rank = l.begun
						l.send(1-i, message{kind: 'h', life: w.sides[i].life, generation: l.begun.generation, serial: l.begun.serial})
					}
					l.end[i] = c
					return w.do(i, t.up(c))
				})
			case c != nil && l.dead && !l.lost(i, w):
				add("side %d sees that link %d is dead", n, i, func() error {
					l.end[i], l.served[i], l.asked[i] = nil, 0, 0
					return w.do(i, t.down(c))
				})
			}
			if c := l.end[i]; c != nil {
				w.stepsAt(add, n, l, i, c)
			}
		}
	}
	return out
}

// lost reports whether nobody tells the side of the link's death: the other was started anew and says nothing of its former life.
func (l *cable) lost(i int, w *world) bool { return l.lives[1-i] != w.sides[1-i].life }

func (w *world) stepsAt(add func(string, int, int, func() error), n int, l *cable, i int, c *candidate) {
	t := w.sides[i].t
	if len(l.ctrl[i]) > 0 {
		add("side %d hears on link %d", n, i, func() error {
			m := l.ctrl[i][0]
			l.ctrl[i] = l.ctrl[i][1:]
			switch m.kind {
			case 'h':
				if !c.dialed {
					l.send(1-i, message{kind: 'h', life: w.sides[i].life})
				}
				return w.do(i, t.hello(c, m.life, m.generation, m.serial))
			case 'r':
				return w.do(i, t.ready(c))
			}
			return w.do(i, t.pledged(c, m.p))
		})
	}
	if l.fresh[i] > 0 {
		add("side %d accepts a stream on link %d", n, i, func() error {
			l.fresh[i]--
			l.served[i]++
			c.active++
			return nil
		})
	}
	if l.served[i] > 0 {
		add("side %d ends an accepted stream on link %d", n, i, func() error {
			l.served[i]--
			return w.do(i, t.ended(c, false))
		})
	}
	if l.asked[i] > 0 {
		add("side %d ends its stream on link %d", n, i, func() error {
			l.asked[i]--
			return w.do(i, t.ended(c, true))
		})
	}
}

func (l *cable) send(to int, m message) {
	if !l.dead {
		l.ctrl[to] = append(l.ctrl[to], m)
	}
}

func (w *world) of(c *candidate) *cable {
	return w.links[slices.IndexFunc(w.links, func(l *cable) bool { return l.end[0] == c || l.end[1] == c })]
}

func (w *world) cutLink(l *cable) {
	l.dead = true
	l.came = [2]bool{true, true}
	l.ctrl, l.fresh = [2][]message{}, [2]int{}
}

// do carries out the orders of a side.
func (w *world) do(i int, orders []order) error {
	for _, o := range orders {
		l := w.of(o.c)
		switch o.kind {
		case sendReady:
			l.send(1-i, message{kind: 'r'})
		case sendPledge:
			l.send(1-i, message{kind: 'p', p: o.pledge})
		case closeLink:
			running := l.fresh[0] + l.fresh[1] + l.served[0] + l.served[1] + l.asked[0] + l.asked[1]
			if !l.dead && running > 0 {
				return fmt.Errorf("side %d closes a link on which %d streams are under way (%s)", i, running, o.reason)
			}
			if l.dead {
				l.end[i], l.served[i], l.asked[i] = nil, 0, 0
				if err := w.do(i, w.sides[i].t.down(o.c)); err != nil {
					return err
				}
				continue
			}
			w.cutLink(l)
		}
	}
	return nil
}

// rest checks a world in which nothing more happens.
func (w *world) rest() error {
	alive := 0
	for n, l := range w.links {
		if (l.end[0] != nil) != (l.end[1] != nil) && !l.dead {
			return fmt.Errorf("link %d is there at one side only", n)
		}
		if !l.dead {
			alive++
		}
	}
	if alive > 1 {
		return fmt.Errorf("%d links are left", alive)
	}
	if alive == 0 && !w.cut && len(w.links) > 0 {
		return fmt.Errorf("no link is left, though none was cut")
	}
	if alive == 0 {
		return nil
	}
	for _, l := range w.links {
		if !w.cut && slices.ContainsFunc(l.knew, func(other *cable) bool { return !other.dead }) {
			return fmt.Errorf("a link is left whose replacement was dialled on purpose")
		}
	}
	a, b := w.sides[0].t.best(), w.sides[1].t.best()
	dead := func(c *candidate) bool { return c == nil || w.of(c).dead }
	if w.cut && (dead(a) || dead(b)) {
		return nil // the link that was to take over was cut when the promise had been made: the side that made it dials anew
	}
	if a == nil || b == nil || w.of(a) != w.of(b) {
		return fmt.Errorf("the sides prefer different links: %v, %v", a, b)
	}
	return nil
}

// TestTiebreakEverything tries every order of events of small worlds.
func TestTiebreakEverything(t *testing.T) {
	for name, w := range map[string]*world{
		"two dials":                newWorld([2]int{1, 1}, [2]int{0, 0}, 0, [2]int{}),
		"two dials, a stream each": newWorld([2]int{1, 1}, [2]int{1, 1}, 0, [2]int{}),
		"one side dials twice":     newWorld([2]int{0, 2}, [2]int{1, 0}, 0, [2]int{}),
		"two dials, one link cut":  newWorld([2]int{1, 1}, [2]int{1, 0}, 1, [2]int{}),
		"two dials and a restart":  newWorld([2]int{1, 1}, [2]int{0, 0}, 0, [2]int{0, 1}),
		"three dials":              newWorld([2]int{1, 2}, [2]int{0, 0}, 0, [2]int{}),
		"a dial before, one after": newWorld([2]int{2, 0}, [2]int{0, 1}, 0, [2]int{1, 0}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := make(map[string]bool)
			var explore func(w *world, trace []step)
			explore = func(w *world, trace []step) {
				steps := w.steps()
				if len(steps) == 0 {
					if err := w.rest(); err != nil {
						t.Fatalf("%v, after:\n%v", err, trace)
					}
					return
				}
				for i, step := range steps {
					next := w.clone()
					if err := next.steps()[i].do(); err != nil {
						t.Fatalf("%v, after:\n%v\n%v", err, trace, step)
					}
					if k := next.key(); !seen[k] {
						seen[k] = true
						explore(next, append(trace, step))
					}
				}
			}
			explore(w, nil)
			t.Logf("%d worlds", len(seen))
		})
	}
}

// TestTiebreakAtRandom goes far in larger worlds.
func TestTiebreakAtRandom(t *testing.T) {
	for seed := range uint64(20000) {
		rng := rand.New(rand.NewPCG(seed, 0))
		w := newWorld([2]int{rng.IntN(4), rng.IntN(4)}, [2]int{rng.IntN(6), rng.IntN(6)}, rng.IntN(3), [2]int{rng.IntN(2), rng.IntN(2)})
		var trace []step
		for {
			steps := w.steps()
			if len(steps) == 0 {
				break
			}
			step := steps[rng.IntN(len(steps))]
			trace = append(trace, step)
			if err := step.do(); err != nil {
				t.Fatalf("seed %d: %v, after:\n%v", seed, err, trace)
			}
		}
		if err := w.rest(); err != nil {
			t.Fatalf("seed %d: %v, after:\n%v", seed, err, trace)
		}
	}
}
