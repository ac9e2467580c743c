package build

import (
	"errors"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestBoth(t *testing.T) {
	boom := errors.New("boom")
	ok := func() error { return nil }
	fails := func() error { return boom }
	dry := func() error { return errPlanned }
	for name, c := range map[string]struct {
		f, g func() error
		want error
	}{
		"both well":         {ok, ok, nil},
		"one fails":         {fails, ok, boom},
		"the other fails":   {ok, fails, boom},
		"one would run":     {dry, ok, errPlanned},
		"failure over plan": {dry, fails, boom},
		"both would run":    {dry, dry, errPlanned},
	} {
		if err := both(c.f, c.g); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}

	// Nobody asks again for what is not said here, in quiet mode least of all.
	kernel := fault.Errorf(fault.Step, "the kernel").Hintf("read the log")
	ports := fault.Errorf(fault.Source, "a port")
	for range 100 {
		err := both(func() error { return kernel }, func() error { return ports })
		if !errors.Is(err, kernel) || !errors.Is(err, ports) || err.Error() != "the kernel\na port" ||
			fault.ClassOf(err) != fault.Step || fault.HintOf(err) != "read the log" {
			t.Fatalf("two failures: %v", err)
		}
	}
	if err := both(fails, fails); err != boom {
		t.Errorf("one failure of both: %v", err)
	}
	if err := both(dry, fails); errors.Is(err, errPlanned) {
		t.Error("a failure that counts as a dry run's end")
	}

	// What runs is not given up because the other failed.
	failed := make(chan struct{})
	finished := false
	err := both(func() error { defer close(failed); return boom }, func() error { <-failed; finished = true; return nil })
	if !errors.Is(err, boom) || !finished {
		t.Errorf("error %v, finished %v", err, finished)
	}
}
