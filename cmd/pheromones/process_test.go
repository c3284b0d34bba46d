package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is the command in a process of its own.
type process struct {
	*exec.Cmd
	t      *testing.T
	lines  *bufio.Reader
	stderr bytes.Buffer // once the process has ended
}

// build returns the path of the command, built for the test.
func build(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("it builds the command")
	}
	binary := filepath.Join(t.TempDir(), "pheromones")
	if runtime.GOOS == "windows" {
		binary += ".exe"
	}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// launch starts a process. It is killed if it still runs when the test is over.
func launch(t *testing.T, binary string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(binary, args...), t: t}
	p.Cmd.Stderr = &p.stderr
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewReader(out)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.ProcessState == nil {
			p.Process.Kill()
			p.Wait()
		}
	})
	return p
}

func (p *process) line() string {
	p.t.Helper()
	line, err := p.lines.ReadString('\n')
	if err != nil {
		p.Wait()
		p.t.Fatalf("%q: standard output ended: %v; standard error: %q", p.Args, err, p.stderr.String())
	}
	return strings.TrimSuffix(line, "\n")
}

// end sends a signal and returns the exit code. The process must end in good time.
func (p *process) end(sig os.Signal) int {
	p.t.Helper()
	if err := p.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
	overdue := time.AfterFunc(30*time.Second, func() { p.Process.Kill() })
	defer overdue.Stop()
	io.Copy(io.Discard, p.lines)
	err := p.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return p.ProcessState.ExitCode()
}

// Nodes and those who talk to them in processes of their own.
func TestProcesses(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("processes cannot send each other signals")
	}
	binary := build(t)
	data := pattern(64 << 20)
	input := filepath.Join(t.TempDir(), "input")
	if err := os.WriteFile(input, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, scheme := range []string{"tcp", "mux", "quic"} {
		t.Run(scheme, func(t *testing.T) {
			// The web server is this process, the node another, and the local port a third.
			site := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, "page %s", r.URL.Path)
			})}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan struct{})
			go func() {
				defer close(served)
				site.Serve(l)
			}()
			t.Cleanup(func() {
				site.Close()
				<-served
			})
			node := launch(t, binary, "serve", "--dir", t.TempDir(), "--listen", scheme+"://127.0.0.1:0", "--service", "web="+l.Addr().String(),
				"--service", "echo="+listenTCP(t, tcpEcho), "--service", "sum="+listenTCP(t, tcpSum))
			addr := node.line()

			client := func(args ...string) *exec.Cmd {
				cmd := exec.CommandContext(t.Context(), binary, args...)
				f, err := os.Open(input)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { f.Close() })
				cmd.Stdin = f
				return cmd
			}
			send := exec.CommandContext(t.Context(), binary, "send", addr)
			send.Stdin = strings.NewReader("hello")
			if out, err := send.Output(); err != nil || string(out) != "hello" {
				t.Errorf("send: %q, %v", out, err)
			}
			if out, err := client("ping", "-c", "2", "-i", "1ms", addr).Output(); err != nil || !strings.Contains(string(out), "2 received, 0% lost") {
				t.Errorf("ping: %q, %v", out, err)
			}
			if out, err := client("pipe", addr, "sum").Output(); err != nil || string(out) != fmt.Sprintf("%x", sha256.Sum256([]byte(data))) {
				t.Errorf("pipe to sum: %q, %v", out, err)
			}
			if out, err := client("pipe", addr, "echo").Output(); err != nil || string(out) != data {
				t.Errorf("pipe to echo: %d bytes, or others; %v", len(out), err)
			}

			port := launch(t, binary, "pipe", "--listen", "127.0.0.1:0", addr, "web")
			base := "http://" + port.line()
			web := &http.Client{Transport: &http.Transport{}}
			for _, path := range []string{"/a", "/b"} {
				resp, err := web.Get(base + path)
				if err != nil {
					t.Fatal(err)
				}
				page, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || string(page) != "page "+path {
					t.Errorf("GET %s: %q, %v", path, page, err)
				}
			}
			web.CloseIdleConnections()
			if code := port.end(os.Interrupt); code != exitOK {
				t.Errorf("pipe --listen: exit code %d, %q", code, port.stderr.String())
			}
			if code := node.end(syscall.SIGTERM); code != exitOK {
				t.Errorf("serve: exit code %d, %q", code, node.stderr.String())
			}

			// Nobody is there any more.
			gone := client("send", addr)
			gone.Stdin = nil
			if err := gone.Run(); gone.ProcessState.ExitCode() != exitUnreachable {
				t.Errorf("send to nobody: %v", err)
			}
			pings := launch(t, binary, "ping", "-i", "1h", addr)
			pings.line()
			pings.line() // "no reply: seq=1 …"
			if code := pings.end(os.Interrupt); code != exitFailed {
				t.Errorf("ping without a reply: exit code %d, %q", code, pings.stderr.String())
			}
		})
	}
}
