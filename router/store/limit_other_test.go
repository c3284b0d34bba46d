//go:build !unix

package store

import "errors"

func limitFiles(uint64) (lift func() error, err error) { return nil, errors.ErrUnsupported }
