package initd

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/datadisk"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

const (
	// unmountBusy is how long the data disk may be busy at the end, and
	// unmountLimit how long all of its end may take: the kernel writes back
	// what is dirty, to a disk that may hang.
	unmountBusy  = 10 * time.Second
	unmountLimit = 90 * time.Second
	// startLimit is how long a program by hand may take to be started.
	startLimit = 5 * time.Second
	// logLimit is how long the logs' last lines may take.
	logLimit = 5 * time.Second
	// hangLimit is what a service may take beyond its own stop time: leftovers
	// and what hangs in the kernel; see package services.
	hangLimit = 45 * time.Second
)

// runServices runs them until the guest is asked to stop and they have ended,
// or do not end at all. It calls beside once they have begun.
func (g *guest) runServices(ctx context.Context, s spec.Spec, beside func()) {
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan struct{})
	go func() { defer close(ended); g.manager.Run(serving) }()
	beside()
	g.logsOpen.Go(func() { g.openLogs(g.manager, s) }) // until then they keep their lines in memory
	go g.watchData(ctx)
	<-g.stop
	// A frozen file system would hold every service that writes.
	if err := g.freezer.Close(); err != nil {
		g.c.note("%v", err)
	}
	if err := g.closeSnapshots(); err != nil {
		g.c.note("%v", err)
	}
	cancel()
	select {
	case <-ended:
		g.c.note("services have ended")
	case <-time.After(g.stopLimit):
		g.c.note("services do not end: going on without them")
	}
}

// stopLimit is how long the services may take to end one after another.
func stopLimit(s spec.Spec) time.Duration {
	limit := hangLimit
	for _, v := range s.Services {
		limit += time.Duration(v.Stop.Seconds)*time.Second + hangLimit
	}
	return limit
}

// finish ends what is not a service, and unmounts the data disk if it is
// mounted.
func (g *guest) finish() {
	if !within(startLimit, g.runner.Close) {
		g.c.note("a program that is being started hangs: going on without it")
	}
	// Programs run by hand, and whoever escaped; PID 1 is left out.
	if err := unix.Kill(-1, unix.SIGKILL); err != nil && err != unix.ESRCH { //nolint:errorlint // an Errno
		g.c.note("last processes: %v", err)
	}
	_, mounted, err := g.data()
	if err != nil {
		return
	}
	if err := g.closeLogs(); err != nil {
		g.c.note("logs: %v", err)
	}
	ok := within(unmountLimit, func() {
		if err := datadisk.Unmount(mounted, unmountBusy); err != nil {
			g.c.note("data disk: %v", err)
			return
		}
		g.c.note("data disk unmounted")
	})
	if !ok {
		g.c.note("data disk: does not answer: it is not unmounted, and will be checked at the next start")
	}
}
