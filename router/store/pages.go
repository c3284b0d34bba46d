package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// bbolt trusts its pages: it checks the sums of the two meta pages and follows whatever the others say, by pointers into mapped
// memory. In a damaged file that is a fault, a panic in a goroutine of its own, or a recursion without end. So the pages are walked
// here first, with every number checked. The layout is that of bbolt v1.4 (file version 2), in the byte order of the machine.
const (
	pageSize   = 4096 // ours, whatever the system's is
	pageHeader = 16   // id 8, flags 2, count 2, overflow 4
	elemSize   = 16   // of a leaf: flags 4, pos 4, key size 4, value size 4; of a branch: pos 4, key size 4, page 8
	metaSize   = 64   // magic 4, version 4, page size 4, flags 4, root 8 and 8, freelist 8, high water 8, transaction 8, sum 8

	boltMagic   = 0xED0CDAED
	boltVersion = 2

	isBranch   = 0x01
	isLeaf     = 0x02
	isFreelist = 0x10
	isBucket   = 0x01 // flag of a leaf's element

	maxDepth = 40 // of the tree; with two elements a page it would not fit any disk
)

// meta is what a meta page says.
type meta struct {
	pageSize            uint32
	root, freelist, end uint64 // pages; end is the first that was never used
	txid                uint64
}

// parseMeta reads a meta page's beginning. ours reports whether it looks like a page of bbolt's at all.
func parseMeta(page []byte) (m meta, ours bool, err error) {
	order := binary.NativeEndian
	if len(page) < pageHeader+4 || order.Uint32(page[pageHeader:]) != boltMagic {
		return meta{}, false, ErrForeign
	}
	if len(page) < pageHeader+metaSize {
		return meta{}, true, ErrCutShort
	}
	b := page[pageHeader:]
	hash := fnv.New64a()
	hash.Write(b[:metaSize-8])
	switch version := order.Uint32(b[4:]); {
	case hash.Sum64() != order.Uint64(b[metaSize-8:]):
		return meta{}, true, fmt.Errorf("%w: the checksum of a meta page is wrong", ErrDamaged)
	case version != boltVersion:
		return meta{}, true, fmt.Errorf("%w: it is a bbolt file of version %d", ErrNewer, version)
	}
	return meta{order.Uint32(b[8:]), order.Uint64(b[16:]), order.Uint64(b[32:]), order.Uint64(b[40:]), order.Uint64(b[48:])}, true, nil
}

// pages is a bbolt file that is being checked.
type pages struct {
	file io.ReaderAt
	meta meta
	used []byte                                          // by page: what was found in it
	item func(bucket, key, value []byte, sub bool) error // called for every element of a leaf, in order; sub: it is a bucket
}

const (
	usedFree = 1 + iota
	usedLive
)

// openPages finds the newer valid meta page, as bbolt does. even reports whether the other one is valid, too, and of the same tree.
func openPages(file io.ReaderAt, size int64) (p *pages, even bool, err error) {
	var metas [2]meta
	var errs [2]error
	known := false
	for i := range metas {
		buf := make([]byte, pageHeader+metaSize)
		n, err := file.ReadAt(buf, int64(i)*pageSize)
		if err != nil && err != io.EOF {
			return nil, false, err
		}
		var ours bool
		metas[i], ours, errs[i] = parseMeta(buf[:n])
		known = known || ours
	}
	newer := 0
	if errs[0] != nil || errs[1] == nil && metas[1].txid > metas[0].txid {
		newer = 1
	}
	m := metas[newer]
	switch {
	case !known:
		return nil, false, ErrForeign
	case size < 2*pageSize:
		return nil, false, ErrCutShort
	case errs[newer] != nil:
		if errors.Is(errs[0], ErrForeign) {
			return nil, false, errs[1]
		}
		return nil, false, errs[0]
	case m.pageSize != pageSize:
		return nil, false, fmt.Errorf("%w: its pages have %d bytes", ErrForeign, m.pageSize)
	case m.end > uint64(size)/pageSize:
		return nil, false, fmt.Errorf("%w: %d pages are in use, it has room for %d", ErrCutShort, m.end, size/pageSize)
	case m.end < 4 || size%pageSize != 0:
		return nil, false, fmt.Errorf("%w: it has %d bytes, %d pages in use", ErrCutShort, size, m.end)
	}
	even = errs[1-newer] == nil && metas[1-newer].root == m.root
	p = &pages{file: file, meta: m, used: make([]byte, m.end)}
	p.used[0], p.used[1] = usedLive, usedLive
	return p, even, nil
}

// page reads a page with its overflow and marks it as being used for what. Each can be marked once.
func (p *pages) page(id uint64, what byte) ([]byte, error) {
	if id < 2 || id >= p.meta.end {
		return nil, fmt.Errorf("%w: page %d does not exist", ErrDamaged, id)
	}
	buf := make([]byte, pageSize)
	if err := p.read(buf, id); err != nil {
		return nil, err
	}
	self, overflow := binary.NativeEndian.Uint64(buf), uint64(binary.NativeEndian.Uint32(buf[12:]))
	if self != id || overflow >= p.meta.end-id {
		return nil, fmt.Errorf("%w: page %d says it is page %d and %d more", ErrDamaged, id, self, overflow)
	}
	for i := id; i <= id+overflow; i++ {
		if err := p.mark(i, what); err != nil {
			return nil, err
		}
	}
	if overflow > 0 {
		buf = make([]byte, (1+overflow)*pageSize)
		return buf, p.read(buf, id)
	}
	return buf, nil
}

func (p *pages) mark(id uint64, what byte) error {
	if id < 2 || id >= p.meta.end || p.used[id] != 0 {
		return fmt.Errorf("%w: page %d is used twice, or does not exist", ErrDamaged, id)
	}
	p.used[id] = what
	return nil
}

func (p *pages) read(buf []byte, id uint64) error {
	_, err := p.file.ReadAt(buf, int64(id)*pageSize)
	if err == io.EOF {
		return fmt.Errorf("%w: page %d", ErrCutShort, id)
	}
	return err
}

// walk goes through all that the file holds and calls item. It fails with ErrDamaged, with what reading fails with, or with what
// item returns.
func (p *pages) walk() error {
	if err := p.freelist(); err != nil {
		return err
	}
	return p.tree(nil, p.meta.root, 0, nil, nil)
}

func (p *pages) freelist() error {
	b, err := p.page(p.meta.freelist, usedLive)
	if err != nil {
		return err
	}
	count := uint64(binary.NativeEndian.Uint16(b[10:]))
	ids := b[pageHeader:]
	if count == 0xFFFF { // too many for the field
		count, ids = binary.NativeEndian.Uint64(ids), ids[8:]
	}
	if binary.NativeEndian.Uint16(b[8:]) != isFreelist || count > uint64(len(ids)/8) {
		return fmt.Errorf("%w: the list of free pages is none", ErrDamaged)
	}
	for i := range count {
		if err := p.mark(binary.NativeEndian.Uint64(ids[8*i:]), usedFree); err != nil {
			return err
		}
	}
	return nil
}

// tree walks the tree at page id, whose keys are to be from first (nil: any) to below end (nil: any).
func (p *pages) tree(bucket []byte, id uint64, depth int, first, end []byte) error {
	b, err := p.page(id, usedLive)
	if err == nil && depth > maxDepth {
		err = fmt.Errorf("%w: the tree is too deep", ErrDamaged)
	}
	if err != nil {
		return err
	}
	return p.node(bucket, id, b, depth, first, end)
}

// node checks a page of a tree, whose keys must ascend, and walks what is below it. id is that of the page it is in.
func (p *pages) node(bucket []byte, id uint64, b []byte, depth int, first, end []byte) error {
	order := binary.NativeEndian
	flags, count := order.Uint16(b[8:]), int(order.Uint16(b[10:]))
	if flags != isBranch && flags != isLeaf || flags == isBranch && count == 0 || pageHeader+count*elemSize > len(b) {
		return fmt.Errorf("%w: the head of page %d makes no sense", ErrDamaged, id)
	}
	// cut returns the n bytes at pos, counted from the element i.
	cut := func(i int, pos, n uint32) ([]byte, bool) {
		from := uint64(pageHeader+i*elemSize) + uint64(pos)
		if from < uint64(pageHeader+count*elemSize) || from+uint64(n) > uint64(len(b)) {
			return nil, false
		}
		return b[from : from+uint64(n)], true
	}
	elem := func(i int) []byte { return b[pageHeader+i*elemSize:][:elemSize] }
	key := func(i int) ([]byte, bool) {
		if e := elem(i); flags == isLeaf {
			return cut(i, order.Uint32(e[4:]), order.Uint32(e[8:]))
		} else {
			return cut(i, order.Uint32(e), order.Uint32(e[4:]))
		}
	}
	for i, last := 0, first; i < count; i++ {
		k, ok := key(i)
		if !ok || len(k) == 0 || end != nil && bytes.Compare(k, end) >= 0 || last != nil && bytes.Compare(k, last) < 0 || i > 0 && bytes.Equal(k, last) {
			return fmt.Errorf("%w: key %d of page %d is not where it belongs", ErrDamaged, i, id)
		}
		last = k
	}
	for i := range count {
		k, _ := key(i)
		e := elem(i)
		if flags == isBranch {
			below := end
			if i+1 < count {
				below, _ = key(i + 1)
			}
			if err := p.tree(bucket, order.Uint64(e[8:]), depth+1, k, below); err != nil {
				return err
			}
			continue
		}
		kind, pos, size := order.Uint32(e), order.Uint32(e[4:]), order.Uint32(e[12:])
		if kind&^isBucket != 0 || pos > 1<<31 {
			return fmt.Errorf("%w: element %d of page %d is of kind %#x", ErrDamaged, i, id, kind)
		}
		value, ok := cut(i, pos+uint32(len(k)), size)
		if !ok {
			return fmt.Errorf("%w: value %d of page %d is cut off", ErrDamaged, i, id)
		}
		if err := p.item(bucket, k, value, kind == isBucket); err != nil {
			return err
		}
		if kind == isBucket {
			if err := p.sub(k, id, value, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

// sub walks a bucket: the page of its root and a sequence number, and if there is no such page, one within the value.
func (p *pages) sub(name []byte, id uint64, value []byte, depth int) error {
	if len(value) < 16 {
		return fmt.Errorf("%w: a bucket of %d bytes in page %d", ErrDamaged, len(value), id)
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return p.tree(name, root, depth+1, nil, nil)
	}
	inline := value[16:]
	if len(inline) < pageHeader || binary.NativeEndian.Uint16(inline[8:]) != isLeaf || depth > maxDepth {
		return fmt.Errorf("%w: a bucket without a page in page %d", ErrDamaged, id)
	}
	return p.node(name, id, inline, depth+1, nil, nil)
}
