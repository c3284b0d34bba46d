package main

import (
	"os"
	"testing"

	"github.com/Blockchain-CN/pheromones/internal/leak"
)

func TestMain(m *testing.M) { os.Exit(leak.Main(m)) }

func TestFetch(t *testing.T) {
	for _, scheme := range []string{"tcp", "mux", "quic"} {
		t.Run(scheme, func(t *testing.T) {
			page, err := fetch(t.Context(), scheme)
			if want := "/noodles for you, and you are the client: true"; err != nil || page != want {
				t.Fatalf("got %q, %v; want %q", page, err, want)
			}
		})
	}
	if _, err := fetch(t.Context(), "pigeon"); err == nil {
		t.Error("an unknown transport was taken")
	}
}
