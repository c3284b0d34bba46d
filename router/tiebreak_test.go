package router

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
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
	var b strings.Builder
	number := make(map[*candidate]int)
	fmt.Fprint(&b, w.dials, w.opens, w.kills, w.lives, w.cut)
	for i, l := range w.links {
		fmt.Fprint(&b, "|", l.dialer, l.begun, len(l.knew), l.lives, l.came, l.dead, l.ctrl, l.fresh, l.served, l.asked)
		for _, c := range l.end {
			if c != nil {
				number[c] = i + 1
				d := *c
				d.peer = nil
				fmt.Fprint(&b, d, c.peer)
			}
		}
	}
	for _, s := range w.sides {
		fmt.Fprint(&b, "|", s.life, s.t.incarnation, s.t.generation, s.t.any, number[s.t.winner])
		for _, c := range s.t.links {
			fmt.Fprint(&b, ",", number[c])
		}
	}
	return b.String()
}

// steps returns all that could happen next.
func (w *world) steps() map[string]func() error {
	out := make(map[string]func() error)
	for i := range w.sides {
		s := &w.sides[i]
		if w.dials[i] > 0 {
			out[fmt.Sprintf("side %d dials", i)] = func() error {
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
			}
		}
		if w.opens[i] > 0 && s.t.best() != nil {
			out[fmt.Sprintf("side %d opens a stream", i)] = func() error {
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
			}
		}
		if w.lives[i] > 0 {
			out[fmt.Sprintf("side %d restarts", i)] = func() error {
				w.lives[i]--
				w.cut = true
				*s = side{&tiebreak{smaller: i == 0}, s.life + 100}
				for _, l := range w.links {
					l.end[i], l.came[i], l.dead = nil, true, true
					l.ctrl, l.fresh = [2][]message{}, [2]int{}
				}
				return nil
			}
		}
	}
	for n, l := range w.links {
		if !l.dead && w.kills > 0 {
			out[fmt.Sprintf("link %d is cut", n)] = func() error {
				w.kills--
				w.cut = true
				w.cutLink(l)
				return nil
			}
		}
		for i := range w.sides {
			t := w.sides[i].t
			switch c := l.end[i]; {
			case !l.came[i] && !l.dead:
				out[fmt.Sprintf("link %d comes up at %d", n, i)] = func() error {
					l.came[i] = true
					c := &candidate{dialed: i == l.dialer}
					if c.dialed {
						c.rank = l.begun
						l.send(1-i, message{kind: 'h', life: w.sides[i].life, generation: l.begun.generation, serial: l.begun.serial})
					}
					l.end[i] = c
					return w.do(i, t.up(c))
				}
			case c != nil && l.dead && !l.lost(i, w):
				out[fmt.Sprintf("side %d sees that link %d is dead", i, n)] = func() error {
					l.end[i], l.served[i], l.asked[i] = nil, 0, 0
					return w.do(i, t.down(c))
				}
			}
			if c := l.end[i]; c != nil {
				w.stepsAt(out, n, l, i, c)
			}
		}
	}
	return out
}

// lost reports whether nobody tells the side of the link's death: the other was started anew and says nothing of its former life.
func (l *cable) lost(i int, w *world) bool { return l.lives[1-i] != w.sides[1-i].life }

func (w *world) stepsAt(out map[string]func() error, n int, l *cable, i int, c *candidate) {
	t := w.sides[i].t
	if len(l.ctrl[i]) > 0 {
		out[fmt.Sprintf("side %d hears on link %d", i, n)] = func() error {
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
		}
	}
	if l.fresh[i] > 0 {
		out[fmt.Sprintf("side %d accepts a stream on link %d", i, n)] = func() error {
			l.fresh[i]--
			l.served[i]++
			c.active++
			return nil
		}
	}
	if l.served[i] > 0 {
		out[fmt.Sprintf("side %d ends an accepted stream on link %d", i, n)] = func() error {
			l.served[i]--
			return w.do(i, t.ended(c, false))
		}
	}
	if l.asked[i] > 0 {
		out[fmt.Sprintf("side %d ends its stream on link %d", i, n)] = func() error {
			l.asked[i]--
			return w.do(i, t.ended(c, true))
		}
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
			var explore func(w *world, trace []string)
			explore = func(w *world, trace []string) {
				steps := w.steps()
				if len(steps) == 0 {
					if err := w.rest(); err != nil {
						t.Fatalf("%v, after:\n%s", err, strings.Join(trace, "\n"))
					}
					return
				}
				for _, step := range slices.Sorted(maps.Keys(steps)) {
					next := w.clone()
					if err := next.steps()[step](); err != nil {
						t.Fatalf("%v, after:\n%s\n%s", err, strings.Join(trace, "\n"), step)
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
		var trace []string
		for {
			steps := w.steps()
			if len(steps) == 0 {
				break
			}
			names := slices.Sorted(maps.Keys(steps))
			step := names[rng.IntN(len(names))]
			trace = append(trace, step)
			if err := steps[step](); err != nil {
				t.Fatalf("seed %d: %v, after:\n%s", seed, err, strings.Join(trace, "\n"))
			}
		}
		if err := w.rest(); err != nil {
			t.Fatalf("seed %d: %v, after:\n%s", seed, err, strings.Join(trace, "\n"))
		}
	}
}
