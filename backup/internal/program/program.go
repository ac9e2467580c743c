// Package program is sovereign-backup: a job comes in on standard input, what is
// said of it goes out on standard output, and its class as the exit code.
package program

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/backup/internal/vault"
	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/internal/netd"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// sayEvery is the pause between two lines of progress.
	sayEvery = 500 * time.Millisecond
	// memory is what the garbage collector aims at, in bytes: it is the phone's
	// own programs' turn first.
	memory = 96 << 20
	// niceness is below everything that somebody waits for.
	niceness = 10
)

const usage = `usage: sovereign-backup [--version]

It does what the line of JSON on its standard input says; sovereignd starts it.
`

// Main is the program.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 1 && args[0] == "--version" {
		fmt.Fprintln(stdout, version())
		return 0
	}
	if len(args) > 0 {
		fmt.Fprint(stderr, usage)
		return int(fault.Usage)
	}
	netd.Use()
	debug.SetMemoryLimit(memory)
	debug.SetGCPercent(50)
	// It can be refused, and costs only speed.
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, niceness)
	s := &speaker{w: json.NewEncoder(stdout)}
	in := bufio.NewReaderSize(stdin, 64<<10)
	result, err := run(ctx, in, s)
	said := backupjob.Said{Result: result}
	if err != nil {
		said = backupjob.Said{Error: backupjob.NewError(err)}
	}
	if sayErr := s.say(said); sayErr != nil && err == nil {
		err = fault.Wrap(fault.Environment, sayErr)
	}
	if err != nil {
		return int(fault.ClassOf(err))
	}
	return 0
}

// version names the program and the kopia that it has in it.
func version() string {
	text := backupjob.Program
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/kopia/kopia" {
				text += " with kopia " + m.Version
			}
		}
	}
	return text
}

func run(ctx context.Context, in *bufio.Reader, s *speaker) (*backupjob.Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	line, err := readLine(in)
	if err != nil {
		return nil, err
	}
	var j backupjob.Job
	if err := json.Unmarshal(line, &j); err != nil {
		// Not the text: there are secrets in it.
		return nil, fault.Errorf(fault.Usage, "standard input has no job: %T", err)
	}
	// Whoever started it is the one it works for: with him it ends.
	answers := make(chan backupjob.Answer, 1)
	go func() {
		for {
			line, err := readLine(in)
			var a backupjob.Answer
			if err == nil {
				err = json.Unmarshal(line, &a)
			}
			if err != nil {
				cancel(fault.Errorf(fault.Cancelled, "whoever started it is gone"))
				return
			}
			answers <- a
		}
	}()
	return vault.Run(ctx, j, vault.Talk{
		Say: s.progress,
		Ask: func(ctx context.Context) (backupjob.Answer, error) {
			if err := s.say(backupjob.Said{Read: true}); err != nil {
				return backupjob.Answer{}, fault.Wrap(fault.Environment, err)
			}
			select {
			case a := <-answers:
				return a, nil
			case <-ctx.Done():
				return backupjob.Answer{}, context.Cause(ctx)
			}
		},
	})
}

func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for len(line) <= backupjob.MaxLine {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, fault.Wrap(fault.Environment, err)
		}
	}
	return nil, fault.Errorf(fault.Usage, "a line of more than %d bytes", int64(backupjob.MaxLine))
}

// speaker writes lines, progress now and then.
type speaker struct {
	mu   sync.Mutex
	w    *json.Encoder
	last time.Time
}

func (s *speaker) say(v backupjob.Said) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Encode(v)
}

func (s *speaker) progress(v backupjob.Said) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.last) < sayEvery && v.Done < v.Total {
		return
	}
	s.last = time.Now()
	_ = s.w.Encode(v) // nobody listens any more: the end says so
}
