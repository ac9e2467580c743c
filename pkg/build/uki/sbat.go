package uki

import (
	"fmt"
	"io"
	"strings"
)

const (
	// sbatHeader begins every list: the version of the format itself.
	sbatHeader = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n"
	// sbatFields are those of a line: component, generation, vendor, package,
	// version, URL.
	sbatFields = 6
	maxSBAT    = 64 << 10
)

// mergeSBAT returns the stub's lines with the caller's after them, and takes
// the section out of the stub. Without lines of the caller's the stub's section
// stays where it is, and the result is "".
func mergeSBAT(parts Parts, stub *program) (string, error) {
	if parts.SBAT == "" {
		return "", nil
	}
	out := sbatHeader
	if s, ok := stub.find(".sbat"); ok {
		n := min(s.virtualSize, s.size)
		if n > maxSBAT {
			return "", fmt.Errorf("the stub's .sbat has %d bytes, more than %d", n, maxSBAT)
		}
		b := make([]byte, n)
		if _, err := parts.Stub.ReadAt(b, s.offset); err != nil && err != io.EOF {
			return "", fmt.Errorf("the stub's .sbat: %w", err)
		}
		out = strings.TrimRight(string(b), "\x00\n") + "\n"
		kept := stub.sections[:0]
		for _, other := range stub.sections {
			if other.name != ".sbat" {
				kept = append(kept, other)
			}
		}
		stub.sections = kept
	}
	for line := range strings.Lines(parts.SBAT) {
		line = strings.TrimRight(line, "\n")
		if line == "" || strings.HasPrefix(line, "sbat,") {
			continue
		}
		if strings.Count(line, ",") != sbatFields-1 || strings.ContainsFunc(line, func(r rune) bool { return control(r) || r > 0x7e }) {
			return "", fmt.Errorf("SBAT line %q is not %d fields of ASCII between commas", line, sbatFields)
		}
		out += line + "\n"
	}
	return out, nil
}
