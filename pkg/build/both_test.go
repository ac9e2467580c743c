package build

import (
	"errors"
	"testing"
)

func TestBoth(t *testing.T) {
	boom := errors.New("boom")
	ok := func() error { return nil }
	fails := func() error { return boom }
	dry := func() error { return errDryRun }
	for name, c := range map[string]struct {
		f, g func() error
		want error
	}{
		"both well":         {ok, ok, nil},
		"one fails":         {fails, ok, boom},
		"the other fails":   {ok, fails, boom},
		"one would run":     {dry, ok, errDryRun},
		"failure over plan": {dry, fails, boom},
	} {
		if err := both(c.f, c.g); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}

	// What runs is not given up because the other failed.
	failed := make(chan struct{})
	finished := false
	err := both(func() error { defer close(failed); return boom }, func() error { <-failed; finished = true; return nil })
	if !errors.Is(err, boom) || !finished {
		t.Errorf("error %v, finished %v", err, finished)
	}
}
