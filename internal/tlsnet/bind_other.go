//go:build !linux

package tlsnet

import (
	"errors"
	"fmt"
	"syscall"
)

// bindTo would bind a socket that is about to dial to the listener's port.
func (l *Listener) bindTo(string, string, syscall.RawConn) error {
	return fmt.Errorf("dialling from the port of a listener: %w on this system", errors.ErrUnsupported)
}
