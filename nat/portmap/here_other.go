//go:build !(linux || windows || darwin || dragonfly || freebsd || netbsd || openbsd)

package portmap

import (
	"errors"
	"net/netip"
)

func defaultGateway() (netip.Addr, error) { return netip.Addr{}, errors.ErrUnsupported }
