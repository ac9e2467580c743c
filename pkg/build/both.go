package build

import (
	"context"
	"errors"

	"golang.org/x/sync/errgroup"
)

// both runs f and g at once. A failure of one cancels the other; in a dry run,
// where "would have run" is no failure, each goes on to its end.
func both(ctx context.Context, f, g func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	var dry [2]bool
	for i, fn := range []func(context.Context) error{f, g} {
		group.Go(func() error {
			err := fn(ctx)
			if errors.Is(err, errDryRun) {
				dry[i] = true
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if dry[0] || dry[1] {
		return errDryRun
	}
	return nil
}
