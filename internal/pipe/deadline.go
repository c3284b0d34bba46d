package pipe

import (
	"sync"
	"time"
)

// Deadline turns a point in time into a flag and a wake-up. Its user guards it with the lock of the Cond it is set with.
type Deadline struct {
	passed bool
	timer  *time.Timer
	set    uint64 // counts calls of Set, so that a timer that has fired can tell it is of the past
}

// Passed reports whether the deadline is over. The Cond's lock must be held.
func (d *Deadline) Passed() bool { return d.passed }

// Set moves the deadline to t, and wakes all who wait on c when it has come; the zero time means never. c.L must be held.
func (d *Deadline) Set(t time.Time, c *sync.Cond) {
	d.Stop()
	d.passed = false
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.passed = true
		c.Broadcast()
		return
	}
	set := d.set
	d.timer = time.AfterFunc(wait, func() {
		c.L.Lock()
		defer c.L.Unlock()
		if d.set == set {
			d.passed = true
			c.Broadcast()
		}
	})
}

// Stop ends the wait for a deadline that no longer matters. The Cond's lock must be held.
func (d *Deadline) Stop() {
	d.set++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
