package initd

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/logs"
)

// console writes short lines with the time since the kernel's start, to
// standard output (the kernel's console) and to init's log. Nobody waits for
// the console: who reads a serial line may stop reading it.
type console struct {
	log   *logs.Log
	lines chan line
}

// line is a text, or with done the question whether all before it is written.
type line struct {
	text string
	done chan struct{}
}

// consoleLines is how many lines may wait for the console; more are only in
// the log.
const consoleLines = 256

func newConsole() *console {
	c := &console{log: logs.New(), lines: make(chan line, consoleLines)}
	go func() {
		for l := range c.lines {
			if l.done != nil {
				close(l.done)
				continue
			}
			os.Stdout.WriteString(l.text) //nolint:errcheck // there is nobody to tell
		}
	}()
	return c
}

func (c *console) note(format string, args ...any) {
	text := fmt.Sprintf("sovereign-init: [%.3f] %s\n", sinceBoot().Seconds(), fmt.Sprintf(format, args...))
	c.log.Write([]byte(text)) //nolint:errcheck // never fails
	c.print(text)
}

// print writes a text as it is.
func (c *console) print(text string) {
	select {
	case c.lines <- line{text: text}:
	default: // it is in the log
	}
}

// drain waits until the console has sent what was written, or for limit: a
// machine that goes off at once would swallow its last words.
func (c *console) drain(limit time.Duration) {
	within(limit, func() {
		done := make(chan struct{})
		c.lines <- line{done: done}
		<-done
		const tcsbrk = 0x5409          // TCSBRK with 1 is tcdrain(3); a console that is no terminal needs none
		unix.IoctlSetInt(1, tcsbrk, 1) //nolint:errcheck // as above
	})
}

// within runs f, and says whether it ended within limit: at the end of a
// machine nothing may be waited for without end, and a call into the kernel
// cannot be taken back.
func within(limit time.Duration, f func()) bool {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
		return true
	case <-time.After(limit):
		return false
	}
}
