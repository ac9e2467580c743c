// Package pause waits for a time that a context can end.
package pause

import (
	"context"
	"time"
)

// For waits for d, or returns why ctx ended (context.Cause).
func For(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
