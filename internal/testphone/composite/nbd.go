package composite

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// A File is an open component.
type File struct {
	*os.File
	Offset   uint64
	Size     uint64
	Writable bool
}

// An Image is a disk whose files are open.
type Image struct {
	Files    []File // by offset
	Length   uint64
	ReadOnly bool
}

// at gives the parts of a range to use, each with its file or nil for what no file
// has.
func (i *Image) at(offset, length uint64, use func(f *File, at, from, n uint64) error) error {
	if offset+length > i.Length || offset+length < offset {
		return errors.New("beyond the disk")
	}
	for from := uint64(0); from < length; {
		where := offset + from
		n := length - from
		var found *File
		for k := range i.Files {
			f := &i.Files[k]
			switch {
			case where >= f.Offset && where < f.Offset+f.Size:
				found, n = f, min(n, f.Offset+f.Size-where)
			case f.Offset > where:
				n = min(n, f.Offset-where)
			}
			if found != nil {
				break
			}
		}
		at := where
		if found != nil {
			at -= found.Offset
		}
		if err := use(found, at, from, n); err != nil {
			return err
		}
		from += n
	}
	return nil
}

// read reads; what no file has is zero.
func (i *Image) read(b []byte, offset uint64) error {
	return i.at(offset, uint64(len(b)), func(f *File, at, from, n uint64) error {
		if f == nil {
			clear(b[from : from+n])
			return nil
		}
		got, err := f.ReadAt(b[from:from+n], int64(at))
		if errors.Is(err, io.EOF) { // it was cut off since
			clear(b[from+uint64(got) : from+n])
			err = nil
		}
		return err
	})
}

func (i *Image) write(b []byte, offset uint64) error {
	return i.at(offset, uint64(len(b)), func(f *File, at, from, n uint64) error {
		if f == nil || !f.Writable {
			return os.ErrPermission
		}
		_, err := f.WriteAt(b[from:from+n], int64(at))
		return err
	})
}

func (i *Image) flush() error {
	for _, f := range i.Files {
		if f.Writable {
			if err := f.Sync(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Of the protocol (doc/proto.md of nbd).
const (
	nbdMagic    = 0x4e42444d41474943
	optMagic    = 0x49484156454f5054
	replyMagic  = 0x3e889045565a9
	askMagic    = 0x25609513
	answerMagic = 0x67446698

	optGo      = 7
	repAck     = 1
	repInfo    = 3
	errUnsup   = 1<<31 | 1
	flagsFixed = 1 // newstyle, with replies to options that are not known

	hasFlags, readOnly, sendFlush, sendFUA = 1, 2, 4, 8

	maxRequest = 32 << 20
)

// Serve answers one client until it goes.
func (i *Image) Serve(conn io.ReadWriter) error {
	slices.SortFunc(i.Files, func(a, b File) int {
		if a.Offset < b.Offset {
			return -1
		}
		return 1
	})
	r := bufio.NewReader(conn)
	var b []byte
	b = binary.BigEndian.AppendUint64(b, nbdMagic)
	b = binary.BigEndian.AppendUint64(b, optMagic)
	b = binary.BigEndian.AppendUint16(b, flagsFixed)
	if _, err := conn.Write(b); err != nil {
		return err
	}
	var client uint32
	if err := binary.Read(r, binary.BigEndian, &client); err != nil {
		return err
	}
	for {
		var o struct {
			Magic       uint64
			Option, Len uint32
		}
		if err := binary.Read(r, binary.BigEndian, &o); err != nil {
			return err
		}
		if o.Magic != optMagic || o.Len > 4096 {
			return fmt.Errorf("NBD: option %#x of %d bytes", o.Magic, o.Len)
		}
		if _, err := r.Discard(int(o.Len)); err != nil {
			return err
		}
		reply := func(kind uint32, data []byte) error {
			b := binary.BigEndian.AppendUint64(nil, replyMagic)
			b = binary.BigEndian.AppendUint32(b, o.Option)
			b = binary.BigEndian.AppendUint32(b, kind)
			b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
			_, err := conn.Write(append(b, data...))
			return err
		}
		if o.Option != optGo {
			if err := reply(errUnsup, nil); err != nil {
				return err
			}
			continue
		}
		flags := uint16(hasFlags | sendFlush | sendFUA)
		if i.ReadOnly {
			flags |= readOnly
		}
		info := binary.BigEndian.AppendUint16(nil, 0) // of the export
		info = binary.BigEndian.AppendUint64(info, i.Length)
		info = binary.BigEndian.AppendUint16(info, flags)
		if err := errors.Join(reply(repInfo, info), reply(repAck, nil)); err != nil {
			return err
		}
		return i.requests(r, conn)
	}
}

func (i *Image) requests(r io.Reader, w io.Writer) error {
	const (
		read, write, disconnect, flush = 0, 1, 2, 3
		fua                            = 1
		errIO, errInvalid              = 5, 22
	)
	for {
		var q struct {
			Magic       uint32
			Flags, Type uint16
			Handle      uint64
			Offset      uint64
			Len         uint32
		}
		if err := binary.Read(r, binary.BigEndian, &q); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if q.Magic != askMagic || q.Len > maxRequest {
			return fmt.Errorf("NBD: a request of %d bytes", q.Len)
		}
		var data []byte
		code := uint32(0)
		var err error
		switch q.Type {
		case read:
			data = make([]byte, q.Len)
			err = i.read(data, q.Offset)
		case write:
			b := make([]byte, q.Len)
			if _, err := io.ReadFull(r, b); err != nil {
				return err
			}
			if err = i.write(b, q.Offset); err == nil && q.Flags&fua != 0 {
				err = i.flush()
			}
		case flush:
			err = i.flush()
		case disconnect:
			return nil
		default:
			code = errInvalid
		}
		if err != nil {
			code, data = errIO, nil
		}
		b := binary.BigEndian.AppendUint32(nil, answerMagic)
		b = binary.BigEndian.AppendUint32(b, code)
		b = binary.BigEndian.AppendUint64(b, q.Handle)
		if _, err := w.Write(append(b, data...)); err != nil {
			return err
		}
	}
}
