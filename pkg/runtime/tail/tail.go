// Package tail reads the last lines of a log that another process writes, for
// error messages and people's eyes.
//
// A file comes in and printable text goes out: what a guest prints must not
// drive the terminal of its owner. The package never writes.
package tail

import (
	"io"
	"os"
	"strings"

	"github.com/sovereign-build/sovereign/internal/printable"
)

// window is how much of each file's end is looked at, bytes.
const window = 64 << 10

// Lines returns the last n lines that are not blank of a log in several files,
// the oldest first, without a final line feed. A file that is empty or cannot be
// read has none.
func Lines(n int, paths ...string) string {
	var b strings.Builder
	for _, path := range paths {
		b.Write(end(path))
	}
	lines := strings.Split(Clean(b.String()), "\n")
	return strings.Join(lines[max(len(lines)-n, 0):], "\n")
}

// end is the last part of a file.
func end(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil
	}
	b, err := io.ReadAll(io.NewSectionReader(f, max(size-window, 0), window))
	if err != nil {
		return nil
	}
	return b
}

// Clean returns the lines of s that are not blank, fit to be printed.
func Clean(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		if line = clean(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// clean drops control characters, and of a line that was overwritten by
// carriage returns keeps the last state.
func clean(line string) string {
	line = strings.TrimRight(line, "\r\n")
	line = line[strings.LastIndexByte(line, '\r')+1:]
	return strings.TrimRight(printable.Text(line), " \t")
}
