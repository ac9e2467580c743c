// Package fault gives errors a class, so that a program can tell a wrong
// recipe from a wrong digest without reading the text, and so that the command
// line's exit codes are one table.
//
// An error comes in from any package and goes out with a class and, where the
// person at the keyboard can do something, a hint. The package never prints
// and never exits.
package fault

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// A Class says what kind of thing went wrong. Its number is the exit code of
// sovereign-build; classes are only ever added (docs/exit-codes.md).
type Class int

const (
	// Internal is a defect of ours, or an error nobody gave a class.
	Internal Class = 1
	// Usage is a wrong flag, argument, recipe or other input file.
	Usage Class = 2
	// Environment is something this machine lacks: a tool, space, a right.
	Environment Class = 3
	// Source is an input that no mirror gave, or a network that failed.
	Source Class = 4
	// Step is a compile step that ended with an error.
	Step Class = 5
	// Verification is a digest, signature or kernel requirement not met.
	Verification Class = 6
	// Differ is two outputs that should be the same and are not.
	Differ Class = 7
	// Device is a device, hypervisor or guest that did not do its part.
	Device Class = 8
	// Stale is a data disk that is not the one its machine had last: an older
	// copy, another history, another machine's, or a new one.
	Stale Class = 9
	// Cancelled is work stopped by the user (Ctrl-C) or the caller's context,
	// which was cancelled or had a deadline.
	Cancelled Class = 130
)

// Error is an error with a class and a hint.
type Error struct {
	Class Class
	Err   error
	// Hint says what to do, as a full imperative clause without a full stop:
	// "run sovereign-build lock --update zlib". Empty where there is nothing
	// to say.
	Hint string
}

// Errorf makes an Error of class c; the format takes %w like fmt.Errorf.
func Errorf(c Class, format string, args ...any) *Error {
	return &Error{Class: c, Err: fmt.Errorf(format, args...)}
}

// Wrap gives err the class c unless an error inside it has one already. It
// returns nil for nil.
func Wrap(c Class, err error) error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	return &Error{Class: c, Err: err}
}

// Hintf returns the error with a hint.
func (e *Error) Hintf(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// Error is the text without the hint.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the error inside.
func (e *Error) Unwrap() error { return e.Err }

// ClassOf returns the class of err: that of the outermost Error in its chain,
// Cancelled for a cancelled context and for one whose deadline has passed
// where nobody gave that another class, Internal otherwise. It is meant for a
// non-nil err.
func ClassOf(err error) Class {
	var e *Error
	switch {
	case errors.Is(err, context.Canceled):
		return Cancelled
	case errors.As(err, &e):
		return e.Class
	case holds(err, context.DeadlineExceeded):
		return Cancelled
	default:
		return Internal
	}
}

// holds says whether target itself is in err's tree. The time-outs of package
// net only say that they are like a deadline of a context.
func holds(err, target error) bool {
	if err == target {
		return true
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return holds(e.Unwrap(), target)
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), func(err error) bool { return holds(err, target) })
	}
	return false
}

// HintOf returns the hint of the outermost Error in the chain that has one.
func HintOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}
