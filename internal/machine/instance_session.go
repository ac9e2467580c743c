package machine

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// reachLimit bounds how long a command waits for the guest's agent: another
// command may have it, or the guest may still boot.
const reachLimit = 30 * time.Second

// reach opens a session with the guest of a running machine. ctx bounds what
// is done with it; how long the guest may take to answer is bounded here.
func (i *Instance) reach(ctx context.Context) (*Agent, error) {
	if err := i.mustRun(ctx); err != nil {
		return nil, err
	}
	limit, cancel := context.WithTimeout(ctx, reachLimit)
	defer cancel()
	s, err := i.session(limit)
	if err != nil && ctx.Err() == nil && limit.Err() != nil {
		return nil, fault.Errorf(fault.Device, "the guest of %s does not answer within %v: %w", i.Name(), reachLimit, err).
			Hintf("see what it does: sovereign-build console %s", i.Name())
	}
	return s, err
}

// ask opens a session for one question.
func (i *Instance) ask(ctx context.Context, question func(*Agent) error) error {
	s, err := i.reach(ctx)
	if err != nil {
		return err
	}
	err = i.tooOld(question(s))
	if closeErr := s.Close(); err == nil && closeErr != nil {
		return fault.Wrap(fault.Device, fmt.Errorf("the guest of %s: %w", i.Name(), closeErr))
	}
	return err
}

func noEndpoint(err error) bool {
	return err != nil && (strings.HasSuffix(err.Error(), ": 404 page not found") || strings.HasSuffix(err.Error(), ": Method Not Allowed"))
}

// tooOld explains the answer of a guest whose agent has no such endpoint: its
// HTTP server's own words, where an endpoint would have words of its own.
func (i *Instance) tooOld(err error) error {
	if !noEndpoint(err) {
		return err
	}
	return fault.Errorf(fault.Device, "the guest of %s cannot do this, its image is too old: %w", i.Name(), err).
		Hintf("build the image anew, stop the machine and start it with that")
}
