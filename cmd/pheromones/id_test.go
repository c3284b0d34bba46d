package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/Blockchain-CN/pheromones/identity"
)

func TestID(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv("AppData", t.TempDir())
	file := filepath.Join(t.TempDir(), "key")
	for _, args := range [][]string{{"id", "--key", file}, {"id", "--dir", t.TempDir() + "/new/folder"}, {"id"}} {
		code, out, errOut := try(t, "", args...)
		id, err := identity.ParseID(strings.TrimSuffix(out, "\n"))
		if code != exitOK || err != nil || !strings.Contains(errOut, "made a new key") {
			t.Fatalf("%q: exit code %d, %q, %q", args, code, out, errOut)
		}
		code, again, errOut := try(t, "", args...)
		if code != exitOK || again != out || errOut != "" {
			t.Errorf("%q, again: exit code %d, %q, %q; want %q", args, code, again, errOut, out)
		}
		var v struct {
			ID   identity.ID
			Key  string
			Made bool
		}
		if err := json.Unmarshal([]byte(mustTry(t, "", append(args, "--json")...)), &v); err != nil || v.ID != id || v.Made {
			t.Errorf("%q --json: %+v, %v", args, v, err)
		}
		info, err := os.Stat(v.Key)
		if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", v.Key, info, err)
		}
	}
}

// However many make the key at once, there is one.
func TestIDOnce(t *testing.T) {
	dir := t.TempDir()
	ids := make([]string, 16)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() { _, ids[i], _ = try(t, "", "id", "--dir", dir) })
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] || len(id) != 53 {
			t.Fatalf("different IDs: %q", ids)
		}
	}
}

func TestIDRefuses(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte("not a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{garbage, filepath.Join(dir, "no", "such", "folder")} {
		code, out, errOut := try(t, "", "id", "--key", file, "--json")
		if f := object[failure](t, out); code != exitFailed || f.Exit != exitFailed || !strings.Contains(errOut, f.Error) {
			t.Errorf("%s: exit code %d, %+v, %q", file, code, f, errOut)
		}
	}
	if b, err := os.ReadFile(garbage); err != nil || string(b) != "not a key" {
		t.Errorf("the file is now %q, %v", b, err)
	}
	code, _, errOut := try(t, "", "ping", "--key", filepath.Join(dir, "none"), "quic://127.0.0.1:1")
	if code != exitFailed || !strings.Contains(errOut, "pheromones id --key") {
		t.Errorf("a client without its key: exit code %d, %q", code, errOut)
	}
}
