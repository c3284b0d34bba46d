package store

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// holder says who has locked the file at path. It reads /proc/locks, see proc_locks(5): lines such as
// "1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF", with the device's numbers in hexadecimal.
func holder(path string) error {
	locked := new(LockedError)
	info, err := os.Stat(path)
	if err != nil {
		return locked
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	text, err := os.ReadFile("/proc/locks")
	if !ok || err != nil {
		return locked
	}
	dev := uint64(st.Dev) //nolint:unconvert // 32 bits wide on mips
	major, minor := dev>>8&0xFFF|dev>>32&^0xFFF, dev&0xFF|dev>>12&^0xFF
	file := fmt.Sprintf("%02x:%02x:%d", major, minor&0xFFFFF, st.Ino)
	for line := range strings.Lines(string(text)) {
		// A process that waits has "->" in the second field.
		if f := strings.Fields(line); len(f) >= 6 && f[1] == "FLOCK" && f[5] == file {
			if pid, err := strconv.Atoi(f[4]); err == nil && pid > 0 {
				locked.PID = pid
				name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
				locked.Program = strings.TrimSpace(string(name))
				break
			}
		}
	}
	return locked
}
