//go:build !race

package conformance

const slowdown = 1
