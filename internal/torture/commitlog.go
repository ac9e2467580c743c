package torture

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// fate is what is known of one row.
type fate byte

const (
	unsent  fate = iota
	sent         // without an answer: it may be there or not
	acked        // acknowledged: it must be there
	present      // was in doubt and was found: it must stay
	absent       // was in doubt and was not found: it must not appear
)

// letters are the fates in the file.
const letters = "-SAPN"

// series is the rows of one writer in one round, numbered from 1.
type series struct{ Round, Writer int }

// commitLog is the record, on this machine, of what was sent and acknowledged:
// lines "S round writer seq" before a row is sent, "A …" after the answer,
// "P …" and "N …" once a row in doubt was found or not. An acknowledgement is on
// the disk before the next row is sent.
type commitLog struct {
	mu    sync.Mutex
	f     *os.File
	fates map[series][]fate // index seq-1
	acks  int
}

func newCommitLog(path string) (*commitLog, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &commitLog{f: f, fates: map[series][]fate{}}, nil
}

// begin records that the next row of a series is about to be sent and returns
// its number.
func (l *commitLog) begin(s series) (seq int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seq = len(l.fates[s]) + 1
	return seq, l.set(s, seq, sent)
}

// acked records that a row was acknowledged.
func (l *commitLog) acked(s series, seq int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.set(s, seq, acked); err != nil {
		return err
	}
	l.acks++
	return unix.Fdatasync(int(l.f.Fd()))
}

// count is the number of acknowledged rows so far.
func (l *commitLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acks
}

func (l *commitLog) set(s series, seq int, f fate) error {
	if _, err := fmt.Fprintf(l.f, "%c %d %d %d\n", letters[f], s.Round, s.Writer, seq); err != nil {
		return err
	}
	return apply(l.fates, s, seq, f)
}

// settle records what was found of the rows in doubt.
func (l *commitLog) settle(s series, seq int, f fate) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.set(s, seq, f)
}

func (l *commitLog) Close() error { return l.f.Close() }

// apply changes the fate of a row, where that is possible.
func apply(fates map[series][]fate, s series, seq int, f fate) error {
	all := fates[s]
	switch {
	case f == sent && seq == len(all)+1:
		fates[s] = append(all, sent)
		return nil
	case f != sent && f != unsent && seq >= 1 && seq <= len(all) && all[seq-1] == sent:
		all[seq-1] = f
		return nil
	}
	return fmt.Errorf("commit log: %c for row %d of round %d, writer %d does not follow from what stands before", letters[f], seq, s.Round, s.Writer)
}

const maxLogLine = 128

// readCommitLog reads the record back. A last line without an end is what a
// killed program leaves, and does not count.
func readCommitLog(r io.Reader) (map[series][]fate, error) {
	fates := map[series][]fate{}
	in := bufio.NewReaderSize(r, maxLogLine)
	for n := 1; ; n++ {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return fates, nil
		}
		if err != nil {
			return nil, fmt.Errorf("commit log: line %d: %w", n, err)
		}
		var letter rune
		var s series
		var seq int
		if _, err := fmt.Sscanf(string(line), "%c %d %d %d\n", &letter, &s.Round, &s.Writer, &seq); err != nil {
			return nil, fmt.Errorf("commit log: line %d: %q: %w", n, line, err)
		}
		f := unsent
		for i, c := range letters {
			if c == letter {
				f = fate(i)
			}
		}
		if f == unsent {
			return nil, fmt.Errorf("commit log: line %d: %q: unknown letter", n, line)
		}
		if err := apply(fates, s, seq, f); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
}

// known is the fate of each row so far.
func (l *commitLog) known() map[series][]fate {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make(map[series][]fate, len(l.fates))
	for s, f := range l.fates {
		all[s] = slices.Clone(f)
	}
	return all
}
