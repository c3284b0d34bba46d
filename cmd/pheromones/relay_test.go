package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/Blockchain-CN/pheromones/transport"
)

// readmeCommands returns the commands of a section of README.md, without the name of the program.
func readmeCommands(t *testing.T, section string) [][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n## "+section+"\n")
	if !ok {
		t.Fatalf("README.md has no section %q", section)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	var commands [][]string
	for _, m := range regexp.MustCompile(`(?m)^pheromones (.*)$`).FindAllStringSubmatch(rest, -1) {
		commands = append(commands, strings.Fields(m[1]))
	}
	return commands
}

// What README.md says of nodes behind NATs, with processes on loopback, which go through the relay because they are told to.
func TestReadmeRelay(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("processes cannot send each other signals")
	}
	commands := readmeCommands(t, "Behind NATs")
	if len(commands) != 4 {
		t.Fatalf("README.md has the commands %q, want four", commands)
	}
	binary := build(t)
	site := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "page %s", r.URL.Path) })}
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		site.Serve(web)
	}()
	t.Cleanup(func() {
		site.Close()
		<-served
	})
	values := []string{"0.0.0.0:4001", "127.0.0.1:0", "127.0.0.1:8080", web.Addr().String(), "127.0.0.1:8081", "127.0.0.1:0"}
	command := func(i int, more ...string) []string {
		args := append([]string(nil), commands[i]...)
		for k := range args {
			args[k] = strings.NewReplacer(values...).Replace(args[k])
		}
		return append(args, more...)
	}
	relay := launch(t, binary, command(0, "--dir", t.TempDir())...)
	at := relay.line()
	values = append(values, "RELAY", at)
	home := launch(t, binary, command(1, "--dir", t.TempDir(), "--listen", "quic://127.0.0.1:0", "--path", "relay")...)
	addr, err := transport.ParseAddr(home.line())
	if err != nil || addr.Scheme != "relay" {
		t.Fatalf("it prints %v (%v), want an address through the relay", addr, err)
	}
	id := addr.Peer.String()
	values = append(values, "ID", id)

	out, err := exec.CommandContext(t.Context(), binary, command(2, "-c", "3", "-i", "1ms", "--path", "relay", "--json")...).Output()
	if err != nil {
		t.Fatalf("ping: %q, %v", out, err)
	}
	lines := strings.SplitAfter(string(out), "\n")
	for i, got := range objects[pong](t, strings.Join(lines[:3], "")) {
		if got.Seq != i+1 || got.MS <= 0 || got.Path != "relayed" || got.From != addr.Peer || got.Addr != addr.String() || got.Transport != "relay" || got.Setup != (i == 0) {
			t.Errorf("ping: %+v", got)
		}
	}
	out, err = exec.CommandContext(t.Context(), binary, command(2, "-c", "1", "--path", "relay")...).Output()
	if err != nil || !strings.Contains(string(out), " path=relayed transport=relay addr="+addr.HostPort) {
		t.Errorf("ping: %q, %v", out, err)
	}
	send := exec.CommandContext(t.Context(), binary, "send", "--join", at, id)
	send.Stdin = strings.NewReader("hello")
	if out, err := send.Output(); err != nil || string(out) != "hello" {
		t.Errorf("send: %q, %v", out, err)
	}
	port := launch(t, binary, command(3)...)
	client := &http.Client{Transport: &http.Transport{}}
	resp, err := client.Get("http://" + port.line() + "/a")
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	client.CloseIdleConnections()
	if err != nil || string(page) != "page /a" {
		t.Errorf("pipe: %q, %v", page, err)
	}
	for _, p := range []*process{port, home, relay} {
		if code := p.end(syscall.SIGTERM); code != exitOK {
			t.Errorf("%q: exit code %d, %q", p.Args, code, p.stderr.String())
		}
	}
}

func TestJoinUsage(t *testing.T) {
	_, addr := serveAt(t, "mux")
	at, err := transport.ParseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	id := strings.Repeat("a", 51) + "a"
	for _, test := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"ping", at.Peer.String()}, exitUsage, "--join"},
		{[]string{"ping", "--join", "nonsense", at.Peer.String()}, exitUsage, "nonsense"},
		{[]string{"ping", "--join", addr, "--path", "sideways", at.Peer.String()}, exitUsage, "sideways"},
		{[]string{"send", "--join", addr, "--timeout", "5s", "nobody-of-this-name"}, exitFailed, "nobody-of-this-name"},
		{[]string{"send", "--join", addr, "--timeout", "5s", "--path", "direct", id}, exitFailed, ""},
	} {
		code, _, errOut := try(t, "", test.args...)
		if code != test.code || !strings.Contains(errOut, test.says) {
			t.Errorf("%q: exit code %d, %q", test.args, code, errOut)
		}
	}
	// The node that was joined is reached by its ID, or its name, without its address.
	for _, to := range []string{at.Peer.String(), addr, "host"} {
		if out := mustTry(t, "hello", "send", "--join", addr, to); out != "hello" {
			t.Errorf("%s: %q", to, out)
		}
	}
}
