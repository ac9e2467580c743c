package audit

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

const (
	// HeadSize is how many bytes of a file ParseProgram wants.
	HeadSize = 4096
	// DataSize is how many bytes of a program's data LookAtData wants: where Go
	// itself looks (debug/buildinfo).
	DataSize = 64 << 10
)

// goMagic begins what Go's linker puts first into the data of its programs.
const goMagic = "\xff Go buildinf:"

// Program is an ELF file.
type Program struct {
	Path string
	// Executable: it is a program, and no shared library.
	Executable bool
	// Go: its threads have stacks of the Go runtime's.
	Go bool
	// Header says whether there is a PT_GNU_STACK; Stack is its size in bytes,
	// and ExecStack whether it asks for an executable one.
	Header    bool
	Stack     uint64
	ExecStack bool
	// Needed are the libraries that it is linked with, where that was looked at.
	Needed []string
	// Data is where in the file the program's writable data begin; 0: nowhere.
	Data int64
}

// WantsData says whether it takes the program's data to judge it: it may be one
// of Go's, whose linker leaves the note out where it is told to (-buildid=).
func (p Program) WantsData() bool {
	return p.Executable && !p.Go && p.Data > 0 && p.Stack < minStack
}

// LookAtData finds out by the first DataSize bytes of the program's data whether
// it is one of Go's.
func (p *Program) LookAtData(b []byte) {
	p.Go = p.Go || bytes.Contains(b[:min(len(b), DataSize)], []byte(goMagic))
}

// Sizes of the structures of 64-bit ELF files, which all of ours are.
const (
	elfHeader  = 64
	elfSegment = 56
)

// ParseProgram reads the program headers of a 64-bit little-endian ELF file from
// its first bytes, HeadSize of them or all. It is false for anything else, and
// for one whose program headers are not among them.
func ParseProgram(path string, head []byte) (Program, bool) {
	p := Program{Path: path}
	if len(head) < elfHeader || !bytes.Equal(head[:4], []byte(elf.ELFMAG)) ||
		head[elf.EI_CLASS] != byte(elf.ELFCLASS64) || head[elf.EI_DATA] != byte(elf.ELFDATA2LSB) {
		return p, false
	}
	le := binary.LittleEndian
	kind, entry, at := elf.Type(le.Uint16(head[16:])), le.Uint64(head[24:]), le.Uint64(head[32:])
	size, count := le.Uint16(head[54:]), le.Uint16(head[56:])
	if size != elfSegment || at > uint64(len(head)) || uint64(count)*elfSegment > uint64(len(head))-at {
		return p, false
	}
	interpreter := false
	for i := range uint64(count) {
		b := head[at+i*elfSegment:]
		kind, flags := elf.ProgType(le.Uint32(b)), elf.ProgFlag(le.Uint32(b[4:]))
		off, fileSize, memSize := le.Uint64(b[8:]), le.Uint64(b[32:]), le.Uint64(b[40:])
		switch kind {
		case elf.PT_INTERP:
			interpreter = true
		case elf.PT_GNU_STACK:
			p.Header, p.Stack, p.ExecStack = true, memSize, flags&elf.PF_X != 0
		case elf.PT_LOAD:
			if flags&elf.PF_W != 0 && p.Data == 0 && off < 1<<40 {
				p.Data = int64(off)
			}
		case elf.PT_NOTE:
			if off <= uint64(len(head)) {
				p.Go = p.Go || isGoNote(head[off:min(uint64(len(head)), off+min(fileSize, HeadSize))])
			}
		}
	}
	// A shared library has no interpreter, and begins nowhere; musl's loader,
	// which is its libc too, begins but has no name of a program.
	p.Executable = kind == elf.ET_EXEC || kind == elf.ET_DYN && (interpreter || entry != 0 && !bytes.Contains([]byte(path), []byte(".so")))
	return p, kind == elf.ET_EXEC || kind == elf.ET_DYN
}

// isGoNote says whether a segment of notes begins with the build ID of Go's
// linker: the name "Go" and type 4 (cmd/link/internal/ld/elf.go).
func isGoNote(b []byte) bool {
	le := binary.LittleEndian
	return len(b) >= 16 && le.Uint32(b) == 4 && le.Uint32(b[8:]) == 4 && string(b[12:16]) == "Go\x00\x00"
}
