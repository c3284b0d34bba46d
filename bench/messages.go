package main

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"storj.io/drpc"
)

// message is a message of gRPC or drpc: bytes, as they are, so that no codec's work is measured.
type message struct{ data []byte }

// raw is the encoding of messages for both.
type raw struct{}

var (
	_ encoding.CodecV2 = grpcCodec{}
	_ drpc.Encoding    = raw{}
)

func (raw) Marshal(m drpc.Message) ([]byte, error) {
	if m, ok := m.(*message); ok {
		return m.data, nil
	}
	return nil, fmt.Errorf("cannot encode a %T", m)
}

func (raw) Unmarshal(b []byte, m drpc.Message) error {
	out, ok := m.(*message)
	if !ok {
		return fmt.Errorf("cannot decode into a %T", m)
	}
	out.data = append(out.data[:0], b...)
	return nil
}

// grpcCodec does without a copy on the way out, as gRPC permits.
type grpcCodec struct{}

func (grpcCodec) Name() string { return "raw" }

func (grpcCodec) Marshal(m any) (mem.BufferSlice, error) {
	b, err := raw{}.Marshal(m)
	return mem.BufferSlice{mem.SliceBuffer(b)}, err
}

func (grpcCodec) Unmarshal(b mem.BufferSlice, m any) error {
	out, ok := m.(*message)
	if !ok {
		return fmt.Errorf("cannot decode into a %T", m)
	}
	if n := b.Len(); cap(out.data) < n {
		out.data = make([]byte, n)
	} else {
		out.data = out.data[:n]
	}
	b.CopyTo(out.data)
	return nil
}

// flow makes a stream of bytes of a stream of messages: each Write is a message.
type flow struct {
	in       message
	rest     []byte // of in, not yet read
	receive  func(*message) error
	send     func(*message) error
	endWrite func() error // on the dialling end
	end      func()       // on the dialling end
}

func (f *flow) Read(p []byte) (int, error) {
	for len(f.rest) == 0 {
		if err := f.receive(&f.in); err != nil {
			return 0, err
		}
		f.rest = f.in.data
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

func (f *flow) Write(p []byte) (int, error) {
	if err := f.send(&message{p}); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite ends the direction; the accepting end does so by returning.
func (f *flow) CloseWrite() error {
	if f.endWrite == nil {
		return nil
	}
	return f.endWrite()
}

// Close ends the stream in order: the dialling end awaits the status.
func (f *flow) Close() error {
	if f.end == nil {
		return nil
	}
	err := f.endWrite()
	for err == nil {
		err = f.receive(&f.in)
	}
	f.end()
	return nil
}
