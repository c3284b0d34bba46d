package conformance

import (
	"time"

	"github.com/Blockchain-CN/pheromones/transport"
)

func writerBlocks(e *env) {
	e.eachPipe(func(p *pipe) {
		f := e.flood(p.x, 30)
		f.stall()
		if n := f.n.Load(); n > maxUnderWay {
			e.errorf("with nobody reading: want at most %d bytes under way, got %d", int64(maxUnderWay), n)
		}
	})
}

func writerBlocksUnaccepted(e *env) {
	l := e.link()
	s, err := l.d.OpenStream(e.ctx)
	e.must(err, "OpenStream")
	f := e.flood(s, 31)
	f.stall()
	if n := f.n.Load(); n > maxUnderWay {
		e.errorf("with nobody accepting the stream: want at most %d bytes under way, got %d", int64(maxUnderWay), n)
	}
}

func everythingArrives(e *env) {
	e.eachPipe(func(p *pipe) {
		f := e.flood(p.x, 32)
		f.stall()
		// Reading lets the writer go on, to the end of its supply.
		r := e.start("Read", func() error {
			got, err := drain(p.y, 32, 2*maxUnderWay)
			if e.must(err, "reading after a rest, after %d bytes", got); got != 2*maxUnderWay {
				e.failf("reading after a rest: want %d bytes, got io.EOF after %d", int64(2*maxUnderWay), got)
			}
			return nil
		})
		if err := f.within(time.Hour); err != errNotBlocked {
			e.errorf("a blocked Write whose peer reads again: want it to go on, got %s after %d bytes", describe(err), f.n.Load())
		}
		r.within(time.Hour)
	})
}

func neighboursMove(e *env) {
	for _, still := range []int{1, 4} {
		e.in("%d streams standing still each way", still)
		l := e.link()
		for range still {
			there, _ := e.stream(l.d, l.a)
			back, _ := e.stream(l.a, l.d)
			f, g := e.flood(there, 33), e.flood(back, 34)
			f.stall()
			g.stall()
			for _, conns := range [][2]transport.Conn{{l.d, l.a}, {l.a, l.d}} { // and some of which nobody sends anything
				x, y := e.stream(conns[0], conns[1])
				for _, s := range []transport.Stream{x, y} {
					e.start("Read, under way", func() error { _, err := s.Read(make([]byte, 1)); return err }).blocked()
				}
			}
		}
		for _, conns := range [][2]transport.Conn{{l.d, l.a}, {l.a, l.d}} {
			x, y := e.stream(conns[0], conns[1])
			e.both(x, y, 4<<20, 32<<10)
		}
	}
}
