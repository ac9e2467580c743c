package engine

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	tailLines = 20
	// maxTailLine bounds one line of the tail, in bytes; the log has it all.
	maxTailLine = 500
)

// stepLog writes a step's log to a file and keeps its end. The file is made
// with the first byte, so a step from the cache leaves the log of the run that
// filled the cache alone.
type stepLog struct {
	path string
	also io.Writer // gets it too, nil for nobody
	f    *os.File
	tail []string
	part []byte // of the last line
}

func newStepLog(dir, step string, also io.Writer) *stepLog {
	return &stepLog{path: filepath.Join(dir, logName(step)), also: also}
}

// logName makes a file name of a step's: "zlib-1.3.1-arm64.log".
func logName(step string) string {
	var b strings.Builder
	for _, r := range step {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '+':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	name := strings.Trim(b.String(), "-.")
	if len(name) > 120 {
		name = name[:120]
	}
	if name == "" {
		name = "step"
	}
	return name + ".log"
}

// open makes the file anew. An older one is unlinked, not cut: another process
// that is writing the same step's log keeps its own.
func (l *stepLog) open() error {
	if l.f != nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var err error
	l.f, err = os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	return err
}

func (l *stepLog) write(data []byte) error {
	for rest := data; ; {
		line, after, ok := bytes.Cut(rest, []byte("\n"))
		if room := maxTailLine - len(l.part); room > 0 {
			l.part = append(l.part, line[:min(room, len(line))]...)
		}
		if !ok {
			break
		}
		l.endLine()
		rest = after
	}
	if err := l.open(); err != nil {
		return err
	}
	if _, err := l.f.Write(data); err != nil || l.also == nil {
		return err
	}
	_, err := l.also.Write(data)
	return err
}

func (l *stepLog) endLine() {
	// A progress bar's carriage returns hide all but the last state.
	line := strings.TrimRight(string(l.part), "\r")
	line = line[strings.LastIndexByte(line, '\r')+1:]
	l.part = l.part[:0]
	if len(l.tail) == tailLines {
		l.tail = append(l.tail[:0], l.tail[1:]...)
	}
	l.tail = append(l.tail, line)
}

// close ends the log and makes sure a failed step has one, if an empty one.
func (l *stepLog) close(failed bool) error {
	if len(l.part) > 0 {
		l.endLine()
	}
	if failed {
		if err := l.open(); err != nil {
			return err
		}
	}
	if l.f == nil {
		return nil
	}
	return l.f.Close()
}
