//go:build unix

package tlsnet

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"testing"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/internal/outq"
)

// TestWriteNow writes to a peer that does not read until the network takes no more. Nothing may wait until then, and all must arrive.
func TestWriteNow(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	server, err := newKey(t).ServerTLS("raw/1")
	if err != nil {
		t.Fatal(err)
	}
	client, err := newKey(t).ClientTLS("raw/1", identity.ID{})
	if err != nil {
		t.Fatal(err)
	}
	other := tls.Server(far, server)
	done := make(chan error, 1)
	go func() { done <- other.Handshake() }()
	raw := tls.Client(newGatherer(near), client)
	if err := raw.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}

	w, ok := newWriter(raw, new(outq.Pool)).(*promptWriter)
	if !ok {
		t.Fatal("a TCP connection cannot be tried")
	}
	var sent []byte
	part := bytes.Repeat([]byte("0123456789abcde"), 500)
	for left, n := false, 0; !left; n++ {
		if n > 10_000 {
			t.Fatal("the network takes more than 75 MB")
		}
		part[0] = byte(n)
		var taken bool
		if taken, left, err = w.WriteNow(part); err != nil || !taken {
			t.Fatalf("after %d bytes: taken %v, %v", len(sent), taken, err)
		}
		sent = append(sent, part...)
	}
	w.net.mu.Lock() // as while crypto/tls's reader writes
	if taken, _, _ := w.WriteNow(part); taken {
		t.Error("something was taken while a write was under way")
	}
	w.net.mu.Unlock()

	go func() {
		_, err := w.Write(nil)
		if err == nil {
			_, err = w.Write([]byte("the end"))
		}
		done <- err
	}()
	got := make([]byte, len(sent)+len("the end"))
	if _, err := io.ReadFull(other, got); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, append(sent, "the end"...)) {
		t.Error("other bytes arrived")
	}
	far.Close()
	for n := 0; err == nil; n++ {
		if n > 10_000 {
			t.Fatal("a connection that the peer has closed takes everything")
		}
		_, _, err = w.WriteNow(part)
	}
}
