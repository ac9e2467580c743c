package build

import (
	"errors"
	"slices"
	"sync"
)

// both runs f and g at once and returns the errors of both, f's first. A
// failure of one does not stop the other: what it finishes is kept, and minutes
// of compiling are worth more than an earlier message. A dry run's "would have
// run" is no failure, and is returned only where there is none.
func both(f, g func() error) error {
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for i, fn := range []func() error{f, g} {
		wg.Go(func() { errs[i] = fn() })
	}
	wg.Wait()
	failures := slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil || errors.Is(err, errPlanned) })
	switch {
	case len(failures) == 2 && failures[0].Error() == failures[1].Error():
		return failures[0] // a cancelled build, say, which is said once
	case len(failures) > 0:
		return errors.Join(failures...)
	}
	return errors.Join(errs...)
}
