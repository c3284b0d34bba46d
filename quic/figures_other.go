//go:build !linux

package quic

import "errors"

func (s *socket) figures() (Figures, error) { return Figures{}, errors.ErrUnsupported }
