package vault

import (
	"context"
	"errors"
	"net"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// away says whether an error is of the way to the store, not of what it has.
func away(err error) bool {
	var network net.Error
	if errors.As(err, &network) {
		return true
	}
	for _, e := range []unix.Errno{unix.ECONNREFUSED, unix.ECONNRESET, unix.EPIPE, unix.ENOTCONN, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ETIMEDOUT, unix.EIO, unix.ESTALE, unix.EACCES} {
		if errors.Is(err, e) {
			return true
		}
	}
	// Of libraries that keep no error behind their text.
	text := err.Error()
	return strings.Contains(text, "connection lost") || strings.Contains(text, "connection refused") || strings.Contains(text, "Access Denied")
}

// unreachable is the error of a store that does not answer.
func unreachable(err error) error {
	if done(err) {
		return err
	}
	return fault.Errorf(fault.Source, "the repository cannot be reached: %w", err).Hintf("see whether what it lies on is there, and try again")
}

// readError is that of reading what a repository should have.
func readError(what string, err error) error {
	switch {
	case err == nil || done(err) || fault.ClassOf(err) == fault.Verification || fault.ClassOf(err) == fault.Environment:
		return err
	case away(err):
		return unreachable(err)
	}
	return fault.Errorf(fault.Verification, "the repository is damaged: %s: %w", what, err).
		Hintf("sovereign-build repository verify looks at all of it; restore an older backup, or from another repository")
}

// writeError is that of giving a repository something.
func writeError(err error) error {
	switch {
	case err == nil || done(err):
		return err
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || strings.Contains(err.Error(), "no space left"):
		return fault.Errorf(fault.Environment, "the repository is full: %w", err).Hintf("make room there, or have fewer backups kept")
	}
	var f *fault.Error
	if errors.As(err, &f) {
		return err
	}
	return unreachable(err)
}

func done(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
