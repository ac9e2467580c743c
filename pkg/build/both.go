package build

import (
	"errors"
	"sync"
)

// both runs f and g at once and returns the first error. A failure of one does
// not stop the other: what it finishes is kept, and minutes of compiling are
// worth more than an earlier message. In a dry run, where "would have run" is
// no failure, it comes last.
func both(f, g func() error) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, fn := range []func() error{f, g} {
		wg.Go(func() {
			err := fn()
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if !errors.Is(err, errDryRun) {
			return err
		}
	}
	if len(errs) > 0 {
		return errDryRun
	}
	return nil
}
