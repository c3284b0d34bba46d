package protocol_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/Blockchain-CN/pheromones/protocol"
)

func TestTable(t *testing.T) {
	var table protocol.Table
	ask := func(operation string) protocol.Message {
		m, err := table.Handle(t.Context(), protocol.Message{Operation: operation})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if m := ask("ping"); m.Operation != protocol.OpUnknown || string(m.Data) != "ping" {
		t.Errorf("an empty table answers %+v, want unknownop of ping", m)
	}
	if m := ask(protocol.OpUnknown); !m.IsNone() {
		t.Errorf("unknownop is answered with %+v, want none", m)
	}
	h := protocol.HandlerFunc(echo)
	if err := table.Register("ping", h); err != nil {
		t.Fatal(err)
	}
	if m := ask("ping"); m.Operation != "ping" {
		t.Errorf("ping is answered with %+v", m)
	}
	for _, test := range []struct {
		operation string
		h         protocol.Handler
		want      error
	}{
		{"ping", h, protocol.ErrDuplicate}, {"", h, protocol.ErrMalformed}, {"\xff", h, protocol.ErrMalformed},
		{strings.Repeat("x", 256), h, protocol.ErrMalformed}, {"nil", nil, protocol.ErrMalformed},
	} {
		if err := table.Register(test.operation, test.h); !errors.Is(err, test.want) {
			t.Errorf("Register(%.10q): %v, want %v", test.operation, err, test.want)
		}
	}
}

func TestTableAtOnce(t *testing.T) {
	var table protocol.Table
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 100 {
				if err := table.Register(fmt.Sprintf("%d of %d", j, i), protocol.HandlerFunc(echo)); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for j := range 100 {
				if _, err := table.Handle(context.Background(), protocol.Message{Operation: fmt.Sprintf("%d of %d", j, i)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
