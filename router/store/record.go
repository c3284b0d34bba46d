package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/Blockchain-CN/pheromones/identity"
	"github.com/Blockchain-CN/pheromones/internal/wire"
	"github.com/Blockchain-CN/pheromones/transport"
)

// Bounds of a Record.
const (
	MaxName  = 255 // bytes
	MaxAddrs = 64
)

// Record is what is kept of one peer. Strings and times are compared and kept as they are; times lose what is below a
// microsecond, and come back in UTC.
type Record struct {
	ID        identity.ID
	Name      string      // at most MaxName bytes of UTF-8
	Seq       uint64      // the number of the newest fact that was taken about the peer
	Left      bool        // the peer has said farewell
	Deleted   bool        // a caller has deleted it
	FirstHand bool        // the peer itself has told what is known
	By        identity.ID // on whose word alone the peer is known; zero: nobody's
	Addrs     []Address   // at most MaxAddrs, in the order they were given
}

// Address is where a peer may be reached, and what is known of that.
type Address struct {
	Addr     transport.Addr // as [transport.ParseAddr] returns it; its Peer is zero or the record's ID
	How      How
	Learned  time.Time // in the years 1 to 9999, as Worked; the zero time means unknown
	Worked   time.Time // when a connection to it was last made; the zero time means never
	Failures uint32    // how often it has failed in a row
}

// How says how an address was learned, the least reliable first.
type How uint8

// The ways to learn an address.
const (
	Hearsay How = iota // another peer said so
	Told               // the peer itself said so
	Dialled            // it was dialled and the peer was there
	Added              // a caller of ours gave it
)

func (h How) String() string {
	switch h {
	case Hearsay:
		return "hearsay"
	case Told:
		return "told"
	case Dialled:
		return "dialled"
	case Added:
		return "added"
	}
	return fmt.Sprintf("How(%d)", uint8(h))
}

// A value in the file is a version, a body, and the CRC-32C of the key, the version and the body. All numbers are big-endian.
//
//	version 1 byte | flags 1 | seq 8 | [by 32] | name length 1, name | addresses 1, each:
//	how 1 (bit 7: with the peer's ID) | length 2, scheme://host:port | learned 8 | worked 8 (µs since 1970) | failures 4
const (
	recordVersion = 1
	sumSize       = 4

	flagLeft, flagDeleted, flagFirstHand, flagBy = 1, 2, 4, 8
	allFlags                                     = 15

	withPeer = 1 << 7 // in the byte of How
)

// checksum returns the CRC-32C of a key and a value without its own.
func checksum(key, value []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli) // the library keeps it
	return crc32.Update(crc32.Checksum(key, table), table, value)
}

// seal appends the checksum of b under key.
func seal(key, b []byte) []byte { return binary.BigEndian.AppendUint32(b, checksum(key, b)) }

// sum returns the checksum that a sealed value ends with; ok if it is the right one.
func sum(key, value []byte) (sum uint32, ok bool) {
	if len(value) < sumSize {
		return 0, false
	}
	n := len(value) - sumSize
	sum = binary.BigEndian.Uint32(value[n:])
	return sum, sum == checksum(key, value[:n])
}

var errTime = errors.New("it is not in the years 1 to 9999")

// check returns what is wrong with a record that a caller gave.
func (r *Record) check() error {
	switch {
	case r.ID.IsZero():
		return errors.New("it has no ID")
	case len(r.Name) > MaxName:
		return fmt.Errorf("its name has %d bytes, more than %d", len(r.Name), MaxName)
	case !utf8.ValidString(r.Name):
		return errors.New("its name is not UTF-8")
	case len(r.Addrs) > MaxAddrs:
		return fmt.Errorf("it has %d addresses, more than %d", len(r.Addrs), MaxAddrs)
	}
	for i, a := range r.Addrs {
		if err := a.check(r.ID); err != nil {
			return fmt.Errorf("its address %d, %s: %w", i, a.Addr, err)
		}
	}
	return nil
}

func (a *Address) check(id identity.ID) error {
	if a.How > Added {
		return fmt.Errorf("it was learned in an unknown way: %d", a.How)
	}
	if !a.Addr.Peer.IsZero() && a.Addr.Peer != id {
		return errors.New("it is of another peer")
	}
	if err := checkText(a.Addr.Scheme + "://" + a.Addr.HostPort); err != nil {
		return err
	}
	for _, t := range []time.Time{a.Learned, a.Worked} {
		if y := t.UTC().Year(); y < 1 || y > 9999 {
			return errTime
		}
	}
	return nil
}

// checkText accepts addresses without an ID in the one form that ParseAddr gives them.
func checkText(text string) error {
	_, err := parseText(text)
	return err
}

func parseText(text string) (transport.Addr, error) {
	a, err := transport.ParseAddr(text)
	if err != nil {
		return transport.Addr{}, err
	}
	if len(text) != len(a.Scheme)+3+len(a.HostPort) || !strings.HasPrefix(text, a.Scheme) || !strings.HasSuffix(text, a.HostPort) {
		return transport.Addr{}, fmt.Errorf("%w: it should be written %s", transport.ErrBadAddr, a)
	}
	return a, nil
}

// append appends the value that the record, which was checked, is kept as.
func (r *Record) append(b []byte) []byte {
	start := len(b)
	var flags byte
	for _, f := range []struct {
		is  bool
		bit byte
	}{{r.Left, flagLeft}, {r.Deleted, flagDeleted}, {r.FirstHand, flagFirstHand}, {!r.By.IsZero(), flagBy}} {
		if f.is {
			flags |= f.bit
		}
	}
	b = append(b, recordVersion, flags)
	b = binary.BigEndian.AppendUint64(b, r.Seq)
	if !r.By.IsZero() {
		b = append(b, r.By[:]...)
	}
	b = append(append(b, byte(len(r.Name))), r.Name...)
	b = append(b, byte(len(r.Addrs)))
	for _, a := range r.Addrs {
		how := byte(a.How)
		if !a.Addr.Peer.IsZero() {
			how |= withPeer
		}
		b = append(b, how)
		b = binary.BigEndian.AppendUint16(b, uint16(len(a.Addr.Scheme)+3+len(a.Addr.HostPort)))
		b = append(append(append(b, a.Addr.Scheme...), "://"...), a.Addr.HostPort...)
		b = binary.BigEndian.AppendUint64(b, uint64(a.Learned.UnixMicro()))
		b = binary.BigEndian.AppendUint64(b, uint64(a.Worked.UnixMicro()))
		b = binary.BigEndian.AppendUint32(b, a.Failures)
	}
	return append(b[:start], seal(r.ID[:], b[start:])...)
}

// parse reads what append wrote, and nothing else. The record shares no memory with key and value. Addresses that package transport does
// not take any more are left out: they were good once, and are no reason to refuse a table. It fails with ErrNewer or ErrDamaged.
func parse(key, value []byte) (Record, error) {
	var r Record
	if len(key) != len(r.ID) {
		return Record{}, fmt.Errorf("%w: a key of %d bytes", ErrDamaged, len(key))
	}
	copy(r.ID[:], key)
	if err := r.parse(value); err != nil {
		return Record{}, err
	}
	return r, nil
}

func (r *Record) parse(value []byte) error {
	if _, ok := sum(r.ID[:], value); !ok {
		return fmt.Errorf("%w: the checksum of the record of %s is wrong", ErrDamaged, r.ID.Short())
	}
	if value[0] > recordVersion {
		return fmt.Errorf("%w: the record of %s is of version %d, this program knows %d", ErrNewer, r.ID.Short(), value[0], recordVersion)
	}
	in := wire.NewReader(value[:len(value)-sumSize])
	in.Uint8("version")
	flags := in.Uint8("flags")
	if flags&^byte(allFlags) != 0 {
		in.Fail("flags", "%#x is unknown", flags)
	}
	r.Left, r.Deleted, r.FirstHand = flags&flagLeft != 0, flags&flagDeleted != 0, flags&flagFirstHand != 0
	r.Seq = in.Uint64("seq")
	if flags&flagBy != 0 {
		if copy(r.By[:], in.Bytes("by", len(r.By))); r.By.IsZero() {
			in.Fail("by", "it is zero")
		}
	}
	r.Name = in.Text("name", int(in.Uint8("name")))
	n := int(in.Uint8("addresses"))
	if n > MaxAddrs {
		in.Fail("addresses", "%d, more than %d", n, MaxAddrs)
	}
	for range n {
		var a Address
		known := a.parse(in, r.ID)
		if in.Err() != nil {
			break
		}
		if known {
			r.Addrs = append(r.Addrs, a)
		}
	}
	if in.Err() == nil && len(in.Rest()) > 0 {
		in.Fail("end", "%d bytes follow", len(in.Rest()))
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("%w: the record of %s: %w", ErrDamaged, r.ID.Short(), err)
	}
	if r.ID.IsZero() || value[0] != recordVersion {
		return fmt.Errorf("%w: the record of %s is of version %d, or of nobody", ErrDamaged, r.ID.Short(), value[0])
	}
	return nil
}

// parse reports whether the address is one that package transport takes.
func (a *Address) parse(in *wire.Reader, id identity.ID) (known bool) {
	how := in.Uint8("how")
	text := in.Text("address", int(in.Uint16("address")))
	a.Learned = time.UnixMicro(int64(in.Uint64("learned"))).UTC()
	a.Worked = time.UnixMicro(int64(in.Uint64("worked"))).UTC()
	a.Failures = in.Uint32("failures")
	if in.Err() != nil {
		return false
	}
	if a.How = How(how &^ withPeer); a.How > Added {
		in.Fail("how", "%d is unknown", a.How)
	}
	for _, t := range []time.Time{a.Learned, a.Worked} {
		if y := t.Year(); y < 1 || y > 9999 {
			in.Fail("time", "%w", errTime)
		}
	}
	var err error
	if a.Addr, err = parseText(text); err != nil {
		return false
	}
	if how&withPeer != 0 {
		a.Addr.Peer = id
	}
	return true
}
