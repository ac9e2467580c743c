package apk

import (
	"bufio"
	"bytes"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// checkFormat refuses, by name, files that people take for a package or an
// index of this format.
func checkFormat(what string, r *bufio.Reader) error {
	head, _ := r.Peek(16) // a file that is shorter is told of by who reads it
	for _, f := range [...]struct{ magic, name string }{
		{"ADB", "of apk-tools 3's format (ADB)"},
		{"PK\x03\x04", "a zip archive, such as an app for Android"},
		{"!<arch>\n", "an ar archive, such as a package of Debian"},
		{"\xed\xab\xee\xdb", "an RPM package"},
		{"\x28\xb5\x2f\xfd", "compressed with zstd, such as a package of Arch"},
		{"<!DOCTYPE", "a web page"},
		{"<html", "a web page"},
	} {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return fault.Errorf(fault.Source, "%s: it is %s, which is not supported", what, f.name).
				Hintf("packages and indexes are read in the format of apk-tools 2, gzip members of tar, which Alpine's repositories have")
		}
	}
	return nil
}
