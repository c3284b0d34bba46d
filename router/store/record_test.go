package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/transport"
)

// testID returns an ID that n stands in; they ascend with n.
func testID(n int) (id identity.ID) {
	binary.BigEndian.PutUint64(id[1:], uint64(n)+1)
	id[31] = 7
	return id
}

// testRecord returns a record of some addresses in which every field tells n.
func testRecord(n, addrs int) Record {
	at := time.Date(2026, 3, 1, 0, 0, 0, 1000*n, time.UTC)
	r := Record{ID: testID(n), Name: fmt.Sprintf("peer %d", n), Seq: uint64(n), Left: n%2 == 0, Deleted: n%3 == 0, FirstHand: n%5 == 0}
	if n%4 == 0 {
		r.By = testID(n + 1)
	}
	for i := range addrs {
		a := Address{
			Addr: transport.Addr{Scheme: "quic", HostPort: fmt.Sprintf("192.0.2.%d:%d", i, n%65536)}, How: How(i % 4),
			Learned: at, Failures: uint32(n),
		}
		if i%2 == 0 {
			a.Addr.Peer, a.Worked = r.ID, at.Add(time.Hour)
		}
		r.Addrs = append(r.Addrs, a)
	}
	return r
}

func fullRecord() Record {
	r := Record{
		ID: testID(1), Name: strings.Repeat("é", MaxName/2), Seq: math.MaxUint64, Left: true, Deleted: true, FirstHand: true, By: testID(2),
	}
	host := strings.Repeat(strings.Repeat("a", 62)+".", 4)
	for range MaxAddrs {
		r.Addrs = append(r.Addrs, Address{
			Addr: transport.Addr{Scheme: strings.Repeat("a", 32), HostPort: host[:251] + ":65535", Peer: r.ID}, How: Added,
			Worked: time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC), Failures: math.MaxUint32,
		})
	}
	return r
}

func TestRecordRoundTrip(t *testing.T) {
	for _, r := range []Record{{ID: testID(0)}, testRecord(0, 0), testRecord(1, 1), testRecord(60, 16), fullRecord()} {
		if err := r.check(); err != nil {
			t.Fatalf("%v: %v", r, err)
		}
		got, err := parse(r.ID[:], r.append(nil))
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("got  %+v, %v\nwant %+v", got, err, r)
		}
	}
	// Times: another zone, and what is below a microsecond.
	r := testRecord(1, 1)
	r.Addrs[0].Learned = time.Date(2026, 3, 1, 2, 0, 0, 1999, time.FixedZone("", 7200))
	got, err := parse(r.ID[:], r.append(nil))
	if want := time.Date(2026, 3, 1, 0, 0, 0, 1000, time.UTC); err != nil || got.Addrs[0].Learned != want {
		t.Errorf("got %v, %v, want %v", got.Addrs[0].Learned, err, want)
	}
}

func TestRecordBounds(t *testing.T) {
	for name, change := range map[string]func(*Record){
		"no ID":            func(r *Record) { r.ID = identity.ID{} },
		"long name":        func(r *Record) { r.Name = strings.Repeat("a", MaxName+1) },
		"name not UTF-8":   func(r *Record) { r.Name = "\xff" },
		"many addresses":   func(r *Record) { r.Addrs = make([]Address, MaxAddrs+1) },
		"unknown way":      func(r *Record) { r.Addrs[0].How = Added + 1 },
		"zero address":     func(r *Record) { r.Addrs[0].Addr = transport.Addr{} },
		"bad scheme":       func(r *Record) { r.Addrs[0].Addr.Scheme = "Q/" },
		"no port":          func(r *Record) { r.Addrs[0].Addr.HostPort = "192.0.2.1" },
		"ID in the host":   func(r *Record) { r.Addrs[0].Addr.HostPort = testID(1).String() + "@192.0.2.1:1" },
		"not as ParseAddr": func(r *Record) { r.Addrs[0].Addr.HostPort = "EXAMPLE.com:1" },
		"another's":        func(r *Record) { r.Addrs[0].Addr.Peer = testID(9) },
		"year 10000":       func(r *Record) { r.Addrs[0].Learned = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"year 0":           func(r *Record) { r.Addrs[0].Worked = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		r := testRecord(1, 2)
		change(&r)
		if err := r.check(); err == nil {
			t.Errorf("%s: it was taken", name)
		}
		// What a caller may not give, a file may not hold; what the codec cannot write down must not be asked of it.
		if name == "no ID" || name == "long name" || name == "many addresses" || name == "unknown way" || name == "another's" {
			continue
		}
		// But an address that is not taken is no reason to lose the rest.
		got, err := parse(r.ID[:], r.append(nil))
		if !errors.Is(err, ErrDamaged) && (err != nil || len(got.Addrs) != 1 || !reflect.DeepEqual(got.Addrs[0], r.Addrs[1])) {
			t.Errorf("%s: parsed to %v, %v", name, got, err)
		}
	}
}

func TestRecordDamage(t *testing.T) {
	r := testRecord(60, 3)
	value := r.append(nil)
	for i := range value {
		if got, err := parse(r.ID[:], value[:i]); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut to %d bytes: %v, %v", i, got, err)
		}
		for bit := range 8 {
			value[i] ^= 1 << bit
			if got, err := parse(r.ID[:], value); !errors.Is(err, ErrDamaged) {
				t.Errorf("bit %d of byte %d flipped: %v, %v", bit, i, got, err)
			}
			value[i] ^= 1 << bit
		}
	}
	other := testID(61)
	if got, err := parse(other[:], value); !errors.Is(err, ErrDamaged) {
		t.Errorf("under another key: %v, %v", got, err)
	}
	newer := append([]byte{recordVersion + 1}, "whatever"...)
	if got, err := parse(r.ID[:], seal(r.ID[:], newer)); !errors.Is(err, ErrNewer) {
		t.Errorf("newer version: %v, %v", got, err)
	}
}

// FuzzRecord: what parses is written again as it was, but for addresses that were left out, so nothing else than append's output does.
// The checksum is mended, or nothing would get past it.
func FuzzRecord(f *testing.F) {
	for _, r := range []Record{testRecord(0, 0), testRecord(60, 4), fullRecord()} {
		value := r.append(nil)
		f.Add(r.ID[:], value[:len(value)-sumSize])
	}
	f.Fuzz(func(t *testing.T, key, body []byte) {
		value := seal(key, bytes.Clone(body))
		r, err := parse(key, value)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
				t.Fatalf("untyped: %v", err)
			}
			return
		}
		if err := r.check(); err != nil {
			t.Fatalf("parsed to what Put refuses: %v", err)
		}
		again := r.append(nil)
		if n := 1 + 1 + 8 + min(32, 32*int(value[1]&flagBy)) + 1 + len(r.Name); int(value[n]) != len(r.Addrs) {
			value, again = value[:n], again[:n] // some were left out
		}
		if !bytes.Equal(again, value) {
			t.Fatalf("%x\nis written as %x", value, again)
		}
	})
}
