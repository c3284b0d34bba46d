//go:build race

package conformance

const slowdown = 3 // how much longer things may take under the race detector
