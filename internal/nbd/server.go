package nbd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// An Export is what is served: one disk, whose requests come one after another
// from each client.
type Export interface {
	io.ReaderAt
	Size() int64 // in bytes
	// WriteAt writes all of p, and with fua has it on the disk when it returns.
	WriteAt(p []byte, off int64, fua bool) error
	Flush() error
	ReadOnly() bool
}

// Serve accepts clients until the listener is closed or ctx ends, and returns
// when the last one is gone. What a client does wrong ends that client only,
// and is told to report.
func Serve(ctx context.Context, l net.Listener, d Export, report func(error)) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("nbd: %w", err)
		}
		clients.Go(func() {
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			defer c.Close()
			if err := ServeConn(c, d); err != nil && ctx.Err() == nil {
				report(err)
			}
		})
	}
}

// ServeConn speaks with one client until it goes. Its going, at any place but
// in the middle of a message, is no error.
func ServeConn(c io.ReadWriter, d Export) error {
	s := &session{r: bufio.NewReaderSize(c, 64<<10), w: bufio.NewWriterSize(c, 64<<10), disk: d}
	ready, err := s.negotiate()
	if err != nil || !ready {
		return err
	}
	for {
		if more, err := s.serve(); err != nil || !more {
			return err
		}
	}
}

type session struct {
	r    *bufio.Reader
	w    *bufio.Writer
	disk Export
}

// put writes values big-endian; errors stay in the writer until Flush.
func (s *session) put(values ...any) {
	for _, v := range values {
		if err := binary.Write(s.w, binary.BigEndian, v); err != nil {
			return // s.w keeps it for Flush
		}
	}
}

// negotiate greets and answers options until the client is content, which is
// ready, or leaves.
func (s *session) negotiate() (ready bool, err error) {
	s.put(uint64(magicHello), uint64(magicOption), uint16(flagFixedNewstyle|flagNoZeroes))
	if err := s.w.Flush(); err != nil {
		return false, err
	}
	var clientFlags uint32
	if err := binary.Read(s.r, binary.BigEndian, &clientFlags); err != nil {
		return false, gone(err)
	}
	for range maxOptions {
		o, err := readOption(s.r)
		if err != nil {
			return false, gone(err)
		}
		ready, more := s.answer(o, clientFlags)
		if err := s.w.Flush(); err != nil {
			return false, err
		}
		if ready || !more {
			return ready, nil
		}
	}
	return false, fmt.Errorf("%w: more than %d options", errProtocol, maxOptions)
}

func (s *session) answer(o option, clientFlags uint32) (ready, more bool) {
	reply := func(kind uint32) { s.put(uint64(magicAnswer), o.kind, kind, uint32(0)) }
	switch o.kind {
	case optExportName:
		s.put(uint64(s.disk.Size()), s.flags())
		if clientFlags&flagNoZeroes == 0 {
			s.put([124]byte{})
		}
		return true, true
	case optAbort:
		reply(answerAck)
		return false, false
	case optInfo, optGo:
		if !validGo(o.data) {
			reply(answerInvalid)
			return false, true
		}
		s.put(uint64(magicAnswer), o.kind, uint32(answerInfo), uint32(12),
			uint16(infoExport), uint64(s.disk.Size()), s.flags())
		s.put(uint64(magicAnswer), o.kind, uint32(answerInfo), uint32(14),
			uint16(infoBlockSize), uint32(512), uint32(BlockSize), uint32(MaxPayload))
		reply(answerAck)
		return o.kind == optGo, true
	default:
		reply(answerUnsupported)
		return false, true
	}
}

func (s *session) flags() uint16 {
	flags := uint16(exportHasFlags | exportSendFlush | exportSendFUA)
	if s.disk.ReadOnly() {
		flags |= exportReadOnly
	}
	return flags
}

// serve does one request. Requests are done one after another, so that a
// flush covers every write that came before it.
func (s *session) serve() (more bool, err error) {
	var head [requestLen]byte
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		return false, gone(err)
	}
	q, err := parseRequest(head)
	if err != nil {
		return false, err
	}
	var data []byte // what a read gives
	var code uint32
	switch q.kind {
	case commandRead:
		code = errnoInvalid
		if q.inside(s.disk.Size()) {
			data = make([]byte, q.length)
			_, err = s.disk.ReadAt(data, int64(q.offset))
			code = errno(err)
		}
		if code != 0 {
			data = nil
		}
	case commandWrite:
		payload := make([]byte, q.length)
		if _, err := io.ReadFull(s.r, payload); err != nil {
			return false, err
		}
		code = errnoInvalid
		switch {
		case s.disk.ReadOnly():
			code = errnoPermission
		case q.inside(s.disk.Size()):
			code = errno(s.disk.WriteAt(payload, int64(q.offset), q.flags&flagFUA != 0))
		}
	case commandFlush:
		code = errno(s.disk.Flush())
	case commandDisconnect:
		return false, nil
	default:
		code = errnoInvalid
	}
	s.put(uint32(magicResponse), code, q.handle)
	if _, err := s.w.Write(data); err != nil {
		return false, err
	}
	return true, s.w.Flush()
}

func errno(err error) uint32 {
	if err != nil {
		return errnoIO
	}
	return 0
}

// gone takes the end of the stream between two messages for what it is.
func gone(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
