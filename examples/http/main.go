// Http serves a web page over a service of one node and fetches it from another, with net/http on both sides. The server
// knows who asks: the peer's ID is authenticated, though nobody has a certificate.
//
//	go run ./examples/http -transport mux
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"

	"github.com/Blockchain-CN/pheromones"
	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/mux"
	"github.com/Blockchain-CN/pheromones/quic"
	"github.com/Blockchain-CN/pheromones/tcp"
	"github.com/Blockchain-CN/pheromones/transport"
)

func main() {
	scheme := flag.String("transport", "quic", "tcp, mux or quic")
	flag.Parse()
	page, err := fetch(context.Background(), *scheme)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(page)
}

// fetch serves a page over the transport and returns what a client reads.
func fetch(ctx context.Context, scheme string) (string, error) {
	server, err := newNode("server", scheme)
	if err != nil {
		return "", err
	}
	defer server.Close()
	client, err := newNode("client", scheme)
	if err != nil {
		return "", err
	}
	defer client.Close()

	// The server's side: a service is a net.Listener.
	if err := server.Start(ctx, scheme+"://127.0.0.1:0"); err != nil {
		return "", err
	}
	l, err := server.Listen("web")
	if err != nil {
		return "", err
	}
	site := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, err := transport.ParseAddr(r.RemoteAddr)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "%s for you, and you are the client: %v", r.URL.Path, peer.Peer == client.ID())
	})}
	served := make(chan error, 1)
	go func() { served <- site.Serve(l) }()

	// The client's side: a connection to a service is a net.Conn. The host in the URL is any name.
	addr := server.Addrs()[0].String()
	web := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return client.Dial(ctx, addr, "web")
	}}
	page, err := get(ctx, &http.Client{Transport: web}, "http://server/noodles")
	web.CloseIdleConnections()

	site.Close()
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return page, err
}

func get(ctx context.Context, c *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	return string(page), err
}

func newNode(name, scheme string) (*pheromones.Node, error) {
	key, err := identity.Generate()
	if err != nil {
		return nil, err
	}
	var t transport.Transport
	switch scheme {
	case "tcp":
		t, err = tcp.New(key, nil)
	case "mux":
		t, err = mux.New(key, nil)
	case "quic":
		t, err = quic.New(key, nil)
	default:
		err = fmt.Errorf("no transport %q: want tcp, mux or quic", scheme)
	}
	if err != nil {
		return nil, err
	}
	return pheromones.New(pheromones.Config{Name: name, Transports: []transport.Transport{t}})
}
