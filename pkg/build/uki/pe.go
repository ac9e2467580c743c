package uki

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/arch"
)

// Of the PE format, as in Microsoft's "PE Format" specification.
const (
	dosSize       = 64
	signatureAt   = 60 // in the DOS header: where the signature is
	coffSize      = 24 // with the signature
	sectionSize   = 40
	directorySize = 8
	pe32Plus      = 0x20b
	efiProgram    = 10 // subsystem
	// optionalFixed is the PE32+ optional header up to the data directories.
	optionalFixed = 112

	securityDirectory = 4

	// maxHeaders bounds what is read of a file's headers: the page that comes
	// before the first section, and room to spare.
	maxHeaders  = 128 << 10
	maxSections = 96 // the specification's limit
	// maxFile keeps every size and address in 32 bits.
	maxFile = 1<<31 - 1

	codeFlags = 0x60000020 // code, may be read and executed
	dataFlags = 0x40000040 // initialized data, may be read
)

// Machine is the architecture that a PE file is for.
type Machine uint16

func (m Machine) String() string {
	if a, ok := arch.OfPE(uint16(m)); ok {
		return a.Go
	}
	return fmt.Sprintf("machine %#04x", uint16(m))
}

// errNotPE is a file that is no PE program at all.
var errNotPE = errors.New("not a PE file")

// program is the headers of a PE file.
type program struct {
	// headers is the file up to its first section, as long as its header says.
	headers  []byte
	coff     int // where the COFF header is, with the signature before it
	table    int // where the section table is
	machine  Machine
	sections []section
	// fileAlign and memoryAlign are powers of two.
	fileAlign, memoryAlign int64
}

// section is one entry of the section table.
type section struct {
	name         string
	virtualSize  int64
	address      int64 // relative to where the image is loaded
	size, offset int64 // in the file
	flags        uint32
}

// parse reads the headers of an EFI program for a 64-bit machine.
func parse(r *io.SectionReader) (*program, error) {
	head := make([]byte, min(r.Size(), maxHeaders))
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return nil, err
	}
	le := binary.LittleEndian
	if len(head) < dosSize || head[0] != 'M' || head[1] != 'Z' {
		return nil, errNotPE
	}
	at := int64(le.Uint32(head[signatureAt:]))
	if at < dosSize || at+coffSize+optionalFixed > int64(len(head)) || string(head[at:at+4]) != "PE\x00\x00" {
		return nil, errNotPE
	}
	p := &program{coff: int(at)}
	p.machine = Machine(le.Uint16(head[at+4:]))
	count, optional := int(le.Uint16(head[at+6:])), int(le.Uint16(head[at+20:]))
	o := head[at+coffSize:]
	switch {
	case optional < optionalFixed || le.Uint16(o) != pe32Plus:
		return nil, errors.New("not a PE32+ file")
	case le.Uint16(o[68:]) != efiProgram:
		return nil, fmt.Errorf("subsystem %d is not that of an EFI application", le.Uint16(o[68:]))
	case count > maxSections:
		return nil, fmt.Errorf("%d sections, more than %d", count, maxSections)
	}
	p.memoryAlign, p.fileAlign = int64(le.Uint32(o[32:])), int64(le.Uint32(o[36:]))
	for _, align := range []int64{p.memoryAlign, p.fileAlign} {
		if align < 1 || align > maxHeaders || align&(align-1) != 0 {
			return nil, fmt.Errorf("alignment %d is not a power of two up to %d", align, maxHeaders)
		}
	}
	size := int64(le.Uint32(o[60:]))
	p.table = p.coff + coffSize + optional
	if end := int64(p.table + count*sectionSize); end > size || size > int64(len(head)) {
		return nil, fmt.Errorf("headers of %d bytes, of which %d are there, do not hold %d sections", size, len(head), count)
	}
	p.headers = head[:size]
	for i := range count {
		b := p.headers[p.table+i*sectionSize:]
		s := section{
			name:        strings.TrimRight(string(b[:8]), "\x00"),
			virtualSize: int64(le.Uint32(b[8:])), address: int64(le.Uint32(b[12:])),
			size: int64(le.Uint32(b[16:])), offset: int64(le.Uint32(b[20:])),
			flags: le.Uint32(b[36:]),
		}
		if s.size > 0 && s.offset+s.size > r.Size() {
			return nil, fmt.Errorf("section %q ends at %d, after the file's end at %d", s.name, s.offset+s.size, r.Size())
		}
		if s.address+max(s.virtualSize, s.size) > maxFile {
			return nil, fmt.Errorf("section %q ends above 2 GiB", s.name)
		}
		p.sections = append(p.sections, s)
	}
	return p, nil
}

// find returns the section of a name.
func (p *program) find(name string) (section, bool) {
	for _, s := range p.sections {
		if s.name == name {
			return s, true
		}
	}
	return section{}, false
}

// end is where memory and file are free.
func (p *program) end() (address, offset int64) {
	address, offset = int64(len(p.headers)), int64(len(p.headers))
	for _, s := range p.sections {
		address = max(address, s.address+max(s.virtualSize, s.size))
		if s.size > 0 {
			offset = max(offset, s.offset+s.size)
		}
	}
	return address, offset
}

// encode writes the section table and what follows from it into the headers.
func (p *program) encode() error {
	le := binary.LittleEndian
	room := (len(p.headers) - p.table) / sectionSize
	if len(p.sections) > room {
		return fmt.Errorf("the stub's headers have room for %d sections, %d are needed", room, len(p.sections))
	}
	clear(p.headers[p.table:])
	var code, data int64
	for i, s := range p.sections {
		b := p.headers[p.table+i*sectionSize:]
		copy(b[:8], s.name)
		for at, v := range map[int]int64{8: s.virtualSize, 12: s.address, 16: s.size, 20: s.offset, 36: int64(s.flags)} {
			le.PutUint32(b[at:], uint32(v))
		}
		if s.flags&0x20 != 0 {
			code += s.size
		} else {
			data += s.size
		}
	}
	coff, o := p.headers[p.coff:], p.headers[p.coff+coffSize:]
	le.PutUint16(coff[6:], uint16(len(p.sections)))
	clear(coff[12:20]) // symbols, which the file no longer has
	address, _ := p.end()
	le.PutUint32(o[4:], uint32(code))
	le.PutUint32(o[8:], uint32(data))
	le.PutUint32(o[56:], uint32(alignUp(address, p.memoryAlign)))
	le.PutUint32(o[64:], 0) // checksum: firmware ignores it, signing sets it
	// A signature of the stub is none of the new file.
	if n := le.Uint32(o[108:]); n > securityDirectory {
		at := optionalFixed + securityDirectory*directorySize
		if p.coff+coffSize+at+directorySize > p.table {
			return errors.New("the stub's data directories are cut short")
		}
		clear(o[at : at+directorySize])
	}
	return nil
}

func alignUp(n, align int64) int64 { return (n + align - 1) &^ (align - 1) }
