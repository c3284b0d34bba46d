package conformance

import "testing"

func (h *Transport) serveIfChild(t *testing.T) {}
