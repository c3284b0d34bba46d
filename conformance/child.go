package conformance

import "testing"

func (h *Transport) serveIfChild(t *testing.T) {}
func processKilled(e *env)                     { e.skipf("todo") }
