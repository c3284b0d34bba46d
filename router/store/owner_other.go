//go:build !unix

package store

import "os"

// keepOwner does nothing: no file is replaced, or it has no owner.
func keepOwner(*os.File, os.FileInfo) {}
