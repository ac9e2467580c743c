package machine

import (
	"context"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// Exec runs a program in the guest and returns its exit code; see
// agent.Client. A program that runs to its end is no error, whatever its code.
func (i *Instance) Exec(ctx context.Context, r agent.ExecRequest, std agent.ExecIO) (code int, err error) {
	err = i.ask(ctx, func(s *session) (err error) {
		code, err = s.Exec(ctx, r, std)
		return err
	})
	return code, err
}

// Boot returns the phases of the guest's boot.
func (i *Instance) Boot(ctx context.Context) (boot agent.Boot, err error) {
	err = i.ask(ctx, func(s *session) (err error) {
		boot, err = s.Boot(ctx)
		return err
	})
	return boot, err
}
