package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// StepError is a step whose script failed. [Engine.Run] returns it inside a
// fault.Error of class fault.Step.
type StepError struct {
	Name string // the step's
	// ExitCode is the script's, 1 to 255; 0 if it was stopped by its deadline.
	ExitCode int
	Timeout  time.Duration // the deadline that passed, else 0
	Tail     []string      // the last lines of the log, at most 20, without line ends
	Log      string        // file with the whole log
}

// Error names the step, why it ended and the log, without the tail.
func (e *StepError) Error() string {
	why := fmt.Sprintf("ended with exit code %d", e.ExitCode)
	if e.Timeout > 0 {
		why = fmt.Sprintf("took longer than %v", e.Timeout)
	}
	return fmt.Sprintf("step %q %s; its whole log is %s", e.Name, why, e.Log)
}

// sigkilled is the exit code of a script that got SIGKILL: 128 + 9.
const sigkilled = 137

func (e *StepError) fault() error {
	f := fault.Errorf(fault.Step, "%w", e)
	if e.ExitCode == sigkilled {
		return f.Hintf("the machine may be out of memory: try fewer jobs")
	}
	if e.Timeout > 0 {
		return f.Hintf("see the last lines of the log; on a slow machine give steps more time")
	}
	return f
}

// exitCode finds the script's exit code in a solve's error.
func exitCode(err error) (int, bool) {
	var exit *gatewayapi.ExitError
	if !errors.As(err, &exit) {
		return 0, false
	}
	return int(exit.ExitCode), true
}

// lost tells whether the connection broke, which is all a client sees of an
// engine that died.
func lost(err error) bool {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if s, ok := status.FromError(e); ok && s.Code() == codes.Unavailable {
			return true
		}
	}
	text := err.Error()
	return strings.Contains(text, "error reading from server: EOF") ||
		strings.Contains(text, "transport is closing") ||
		strings.Contains(text, "connection refused") ||
		strings.Contains(text, "no active session")
}

// cancelled is the error of work the caller stopped.
func cancelled(ctx context.Context, what string) error {
	return fault.Errorf(fault.Cancelled, "%s was stopped: %w", what, context.Cause(ctx))
}
