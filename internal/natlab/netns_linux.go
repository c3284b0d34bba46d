package natlab

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// netns is a network namespace that has no name. It lives as long as its thread, and whatever else is in it.
type netns struct {
	tid  int         // of the thread, by which ip finds the namespace
	work chan func() // to be run on the thread
	done chan struct{}
}

func newNetns() (*netns, error) {
	n := &netns{work: make(chan func()), done: make(chan struct{})}
	began := make(chan error)
	go func() {
		defer close(n.done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and is never used outside the namespace
		n.tid = unix.Gettid()
		err := unix.Unshare(unix.CLONE_NEWNET)
		began <- err
		if err != nil {
			return
		}
		for f := range n.work {
			f()
		}
	}()
	if err := <-began; err != nil {
		<-n.done
		return nil, fmt.Errorf("%w: a network namespace is refused: %w", ErrUnavailable, err)
	}
	err := n.run("link set lo up\n", "ip", "-batch", "-")
	for _, s := range []string{"ipv6/conf/all/disable_ipv6=1", "ipv6/conf/default/disable_ipv6=1"} {
		if err == nil {
			err = n.sysctl(s)
		}
	}
	if err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// close ends the thread. Programs that were started by it are killed.
func (n *netns) close() {
	close(n.work)
	<-n.done
}

// do runs f in the namespace: sockets that it makes and programs that it starts belong there.
func (n *netns) do(f func() error) error {
	err := make(chan error)
	n.work <- func() { err <- f() }
	return <-err
}

// start starts a program, which does not outlive the namespace.
func (n *netns) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(unix.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	return n.do(cmd.Start)
}

// run runs a program to its end.
func (n *netns) run(input, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	var said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &said, &said
	err := n.start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("natlab: %s: %w: %s\n%s", name, err, bytes.TrimSpace(said.Bytes()), input)
	}
	return nil
}

// ip runs commands of ip, one a line.
func (n *netns) ip(format string, args ...any) error {
	return n.run(fmt.Sprintf(format, args...), "ip", "-batch", "-")
}

// sysctl sets a variable below /proc/sys/net, given as path=value.
func (n *netns) sysctl(settings ...string) error {
	return n.do(func() error {
		for _, s := range settings {
			path, value, _ := strings.Cut(s, "=")
			if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0); err != nil {
				return fmt.Errorf("natlab: %w", err)
			}
		}
		return nil
	})
}
