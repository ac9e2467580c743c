package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Numbers of the protocol.
const (
	magicHello    = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption   = 0x49484156454f5054 // "IHAVEOPT"
	magicAnswer   = 0x3e889045565a9
	magicRequest  = 0x25609513
	magicResponse = 0x67446698

	flagFixedNewstyle = 1 << 0
	flagNoZeroes      = 1 << 1

	optExportName = 1
	optAbort      = 2
	optInfo       = 6
	optGo         = 7

	answerAck         = 1
	answerInfo        = 3
	answerUnsupported = 1<<31 + 1
	answerInvalid     = 1<<31 + 3

	infoExport    = 0
	infoBlockSize = 3

	exportHasFlags  = 1 << 0
	exportReadOnly  = 1 << 1
	exportSendFlush = 1 << 2
	exportSendFUA   = 1 << 3

	commandRead       = 0
	commandWrite      = 1
	commandDisconnect = 2
	commandFlush      = 3

	flagFUA = 1 << 0

	errnoPermission = 1
	errnoIO         = 5
	errnoInvalid    = 22
)

const (
	// MaxPayload bounds one read or write, in bytes, as the protocol suggests.
	MaxPayload = 32 << 20
	// maxOption bounds the data of one option: an export's name has at most
	// 4096 bytes.
	maxOption = 8 << 10
	// maxOptions bounds how long a client may haggle.
	maxOptions = 64
)

var errProtocol = errors.New("nbd: protocol error")

// option is what a client asks for before the transmission begins.
type option struct {
	kind uint32
	data []byte
}

func readOption(r io.Reader) (option, error) {
	var head [16]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return option{}, err
	}
	if m := binary.BigEndian.Uint64(head[:]); m != magicOption {
		return option{}, fmt.Errorf("%w: an option begins with %#x", errProtocol, m)
	}
	n := binary.BigEndian.Uint32(head[12:])
	if n > maxOption {
		return option{}, fmt.Errorf("%w: an option of %d bytes", errProtocol, n)
	}
	o := option{kind: binary.BigEndian.Uint32(head[8:]), data: make([]byte, n)}
	_, err := io.ReadFull(r, o.data)
	return o, err
}

// validGo checks the data of INFO and GO: a name and a list of information
// wanted. Every name is the one export.
func validGo(b []byte) bool {
	if len(b) < 6 {
		return false
	}
	name := int64(binary.BigEndian.Uint32(b))
	if name > int64(len(b)-6) {
		return false
	}
	rest := b[4+name:]
	return len(rest) == 2+2*int(binary.BigEndian.Uint16(rest))
}

// request is a command of the transmission, without its payload.
type request struct {
	flags, kind uint16
	handle      uint64
	offset      uint64
	length      uint32
}

const requestLen = 28

func parseRequest(b [requestLen]byte) (request, error) {
	if m := binary.BigEndian.Uint32(b[:]); m != magicRequest {
		return request{}, fmt.Errorf("%w: a request begins with %#x", errProtocol, m)
	}
	q := request{
		flags:  binary.BigEndian.Uint16(b[4:]),
		kind:   binary.BigEndian.Uint16(b[6:]),
		handle: binary.BigEndian.Uint64(b[8:]),
		offset: binary.BigEndian.Uint64(b[16:]),
		length: binary.BigEndian.Uint32(b[24:]),
	}
	// A payload that is too long cannot be skipped and answered: the peer is
	// not one to go on with.
	if (q.kind == commandRead || q.kind == commandWrite) && q.length > MaxPayload {
		return request{}, fmt.Errorf("%w: %d bytes in one request", errProtocol, q.length)
	}
	return q, nil
}

// inside says whether the range of a read or write lies on the disk.
func (q request) inside(size int64) bool {
	return q.offset <= uint64(size) && uint64(q.length) <= uint64(size)-q.offset
}
