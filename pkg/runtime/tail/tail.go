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

// window is how much of a file's end is looked at.
const window = 64 << 10

// Lines returns the last n lines that are not blank, without a final line
// feed; nothing where the file is empty or cannot be read.
func Lines(path string, n int) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err != nil || size == 0 {
		return ""
	} else if _, err := f.Seek(max(size-window, 0), io.SeekStart); err != nil {
		return ""
	}
	b, err := io.ReadAll(io.LimitReader(f, window))
	if err != nil {
		return ""
	}
	lines := strings.Split(Clean(string(b)), "\n")
	return strings.Join(lines[max(len(lines)-n, 0):], "\n")
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
