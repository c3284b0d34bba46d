package natlab

import (
	"fmt"
	"os"
	"strings"
)

// Received returns how many bytes the host's device has received in its life.
func (h *Host) Received() (n int64, err error) {
	err = h.do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return fmt.Errorf("natlab: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			if device, numbers, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && device == "eth0" {
				if _, err := fmt.Sscan(numbers, &n); err != nil {
					return fmt.Errorf("natlab: %w", err)
				}
				return nil
			}
		}
		return fmt.Errorf("natlab: no device eth0: %w", os.ErrNotExist)
	})
	return n, err
}
