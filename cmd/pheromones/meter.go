package main

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

// meterDelay is how long a transfer takes before it counts as a long one.
const meterDelay = 2 * time.Second

// meter shows on a terminal how much a long transfer has moved. A nil meter shows nothing. It is safe for concurrent use.
type meter struct {
	w     io.Writer
	total int64 // in bytes; -1 if it is not known
	from  time.Time

	mu    sync.Mutex
	moved int64
	bar   *progressbar.ProgressBar // nil until the transfer is a long one
}

// newMeter returns the meter of a transfer between standard input and output: nil unless standard error is a terminal that
// standard output does not use too.
func (p *program) newMeter() *meter {
	if !isTerminal(p.err) || isTerminal(p.out) {
		return nil
	}
	m := &meter{w: p.err, total: -1, from: time.Now().Add(meterDelay)}
	if f, ok := p.in.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			m.total = info.Size()
		}
	}
	return m
}

// add counts n bytes more.
func (m *meter) add(n int) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moved += int64(n)
	if m.bar == nil {
		if time.Now().Before(m.from) {
			return
		}
		m.bar = progressbar.NewOptions64(m.total, progressbar.OptionSetWriter(m.w), progressbar.OptionShowBytes(true), progressbar.OptionShowCount(),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetWidth(30), progressbar.OptionUseIECUnits(true),
			progressbar.OptionClearOnFinish(), progressbar.OptionSetSpinnerChangeInterval(0))
	}
	if m.total >= 0 && m.moved > m.total { // both directions count, and a file may grow
		m.total = m.moved
		m.bar.ChangeMax64(m.total)
	}
	m.bar.Set64(m.moved)
}

// finish takes the meter from the terminal.
func (m *meter) finish() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bar != nil {
		m.bar.Finish()
	}
}
