package uki

import (
	"bytes"
	"encoding/binary"
	"io"
)

// Of the x86 boot protocol (Documentation/arch/x86/boot.rst in Linux).
const (
	setupMagicAt   = 0x202
	setupVersionAt = 0x20e
	setupBase      = 0x200
	maxRelease     = 64 // as long as uname(2) has it
)

// Release is the release of an x86 kernel as uname -r prints it, read from its
// boot header. It is "" where there is none: other kernels do not say.
func Release(linux io.ReaderAt) string {
	header := make([]byte, setupVersionAt+2)
	if _, err := linux.ReadAt(header, 0); err != nil || string(header[setupMagicAt:setupMagicAt+4]) != "HdrS" {
		return ""
	}
	at := int64(binary.LittleEndian.Uint16(header[setupVersionAt:]))
	if at == 0 {
		return ""
	}
	text := make([]byte, maxRelease+1)
	n, err := linux.ReadAt(text, at+setupBase)
	if err != nil && err != io.EOF {
		return ""
	}
	end := bytes.IndexAny(text[:n], " \x00")
	if end < 0 || bytes.ContainsFunc(text[:end], func(r rune) bool { return control(r) || r > 0x7e }) {
		return ""
	}
	return string(text[:end])
}
