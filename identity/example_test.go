package identity_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/Blockchain-CN/pheromones/identity"
)

func ExampleGenerate() {
	key, err := identity.Generate()
	if err != nil {
		log.Fatal(err)
	}
	message := []byte("it was me")
	fmt.Println(key.ID().Verify(message, key.Sign(message)))
	// Output: true
}

func ExampleParseID() {
	id, err := identity.ParseID("25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkena")
	fmt.Println(id.Short(), err)
	_, err = identity.ParseID("25NJ")
	fmt.Println(err)
	// Output:
	// 25njqamc <nil>
	// identity: not an ID: 4 characters, want 52 of a-z and 2-7
}

// A program reads its key and makes one the first time it runs.
func ExampleLoad() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "key")

	loadOrMake := func() (identity.Key, error) {
		key, err := identity.Load(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return key, err
		}
		if key, err = identity.Generate(); err != nil {
			return identity.Key{}, err
		}
		return key, key.Save(path)
	}
	first, err := loadOrMake()
	if err != nil {
		log.Fatal(err)
	}
	second, err := loadOrMake()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the same peer:", first.ID() == second.ID())
	// Output: the same peer: true
}

func ExampleKey_Save() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	key, err := identity.Generate()
	if err != nil {
		log.Fatal(err)
	}
	path := filepath.Join(dir, "key")
	fmt.Println(key.Save(path))
	err = key.Save(path)
	fmt.Println(errors.Is(err, fs.ErrExist), strings.Contains(err.Error(), "never overwritten"))
	// Output:
	// <nil>
	// true true
}

func ExampleKey_ClientTLS() {
	server, _ := identity.Generate()
	client, _ := identity.Generate()
	accept, err := server.ServerTLS("example/1")
	if err != nil {
		log.Fatal(err)
	}
	dial, err := client.ClientTLS("example/1", server.ID()) // whoever answers must be the server
	if err != nil {
		log.Fatal(err)
	}

	ln, err := tls.Listen("tcp", "127.0.0.1:0", accept)
	if err != nil {
		log.Fatal(err)
	}
	defer ln.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if conn.(*tls.Conn).Handshake() == nil {
			came, err := identity.PeerID(conn.(*tls.Conn).ConnectionState())
			fmt.Println("the client came:", came == client.ID(), err)
		}
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	conn := tls.Client(raw, dial)
	defer conn.Close()
	fmt.Println("handshake:", conn.Handshake())
	<-done
	// Unordered output:
	// handshake: <nil>
	// the client came: true <nil>
}
