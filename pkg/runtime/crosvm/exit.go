package crosvm

import (
	"fmt"
	"os"
	"syscall"
)

// Exit codes of crosvm with --extended-status (src/main.rs, CommandStatus).
const (
	exitStop     = 0
	exitFailed   = 1
	exitReset    = 32
	exitCrash    = 33
	exitPanic    = 34
	exitBadArgs  = 35
	exitWatchdog = 36
)

// exitText says what an end means.
func exitText(s *os.ProcessState) string {
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return fmt.Sprintf("crosvm was killed by signal %d (%v)", ws.Signal(), ws.Signal())
	}
	what := "an exit code that is none of crosvm's"
	switch s.ExitCode() {
	case exitStop:
		what = "the machine was powered off"
	case exitFailed:
		what = "crosvm itself failed"
	case exitReset:
		what = "the guest reset the machine"
	case exitCrash:
		what = "the machine crashed"
	case exitPanic:
		what = "the guest's kernel panicked"
	case exitBadArgs:
		what = "crosvm did not understand its arguments"
	case exitWatchdog:
		what = "a CPU of the guest stood still"
	}
	return fmt.Sprintf("%s (exit code %d of crosvm)", what, s.ExitCode())
}

// atOdds says whether an end before the guest was up is of the kind that some
// processors have with more than one CPU.
func atOdds(s *os.ProcessState) bool {
	switch s.ExitCode() {
	case exitReset, exitCrash, exitWatchdog:
		return true
	}
	return false
}

// fewerCPUs is the next number to try after n.
func fewerCPUs(n int) int {
	if n > 2 {
		return 2
	}
	return 1
}
