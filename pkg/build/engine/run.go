package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// deathWatch is how long a dead daemon may take to vanish from the process
// table after its connection broke.
const deathWatch = 3 * time.Second

// Run runs a step and writes its output directory to tarball, as a tar stream
// sorted by path with the times and owners the step gave its files. A failed
// script is a [*StepError]. After any error what was written is worthless.
//
// When ctx ends, the step is stopped and Run returns once nothing of it runs
// anymore.
func (e *Engine) Run(ctx context.Context, s Step, tarball io.Writer) (err error) {
	if err := s.check(); err != nil {
		return err
	}
	platform, err := s.Base.platform()
	if err != nil {
		return fmt.Errorf("step %q: %w", s.Name, err)
	}
	def, files, err := graph(ctx, &s, platform)
	if err != nil {
		return err
	}
	l, err := e.connect(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return cancelled(ctx, fmt.Sprintf("step %q", s.Name))
		}
		return err
	}
	broken := false
	defer func() { err = errors.Join(err, e.done(l, broken)) }()

	timeout := s.Timeout
	if timeout <= 0 {
		timeout = e.opts.timeout
	}
	stepCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	out := &sink{w: tarball}
	log := newStepLog(e.opts.logDir, s.Name, s.Log)
	obs := &observer{name: s.Name, log: log, tell: e.opts.status, hidden: map[digest.Digest]bool{}}
	ch := make(chan *client.SolveStatus)
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		obs.follow(ch)
	}()
	_, solveErr := l.client.Solve(stepCtx, def, client.SolveOpt{
		OCIStores:    map[string]content.Store{storeID: files},
		CacheImports: e.opts.cacheImport,
		CacheExports: e.opts.cacheExport,
		Exports: []client.ExportEntry{{
			Type:   client.ExporterTar,
			Output: func(map[string]string) (io.WriteCloser, error) { return out, nil },
		}},
	}, ch)
	<-followed
	logErr := errors.Join(obs.err, log.close(solveErr != nil && obs.ran))
	e.count(obs)

	if solveErr == nil {
		return full(logErr)
	}
	return e.explain(ctx, stepCtx, &s, timeout, l, solveErr, out.failed(), log, &broken)
}

// explain turns a solve's error into one that says what went wrong.
func (e *Engine) explain(ctx, stepCtx context.Context, s *Step, timeout time.Duration, l *link, err, sinkErr error, log *stepLog, broken *bool) error {
	what := fmt.Sprintf("step %q", s.Name)
	switch {
	case ctx.Err() != nil:
		return cancelled(ctx, what)
	case stepCtx.Err() != nil:
		return (&StepError{Name: s.Name, Timeout: timeout, Tail: log.tail, Log: log.path}).fault()
	case sinkErr != nil:
		return fmt.Errorf("output of %s: %w", what, full(sinkErr))
	}
	if code, ok := exitCode(err); ok {
		// A daemon that dies takes its steps along; then their exit code says
		// nothing about the script.
		if l.lease == nil || code != sigkilled || l.lease.proc.alive() {
			return (&StepError{Name: s.Name, ExitCode: code, Tail: log.tail, Log: log.path}).fault()
		}
	}
	if l.lease != nil {
		watch, cancel := context.WithTimeout(ctx, deathWatch)
		defer cancel()
		if !lost(err) {
			cancel() // one look is enough
		}
		if died := until(watch, 20*time.Millisecond, func() bool { return !l.lease.proc.alive() }); died == nil {
			*broken = true
			return fault.Errorf(fault.Environment, "the build engine (buildkitd, process %d) died during %s; its log is %s",
				l.lease.proc.PID, what, l.lease.d.file("buildkitd.log")).
				Hintf("run the command again: a new engine is started and finished steps are kept")
		}
	}
	if lost(err) {
		*broken = true
		where := e.opts.address
		if where == "" {
			where = "private"
		}
		return fault.Errorf(fault.Environment, "the connection to the build engine (%s) broke during %s: %v", where, what, err).
			Hintf("run the command again: finished steps are kept")
	}
	if strings.Contains(err.Error(), "no space left on device") {
		return fault.Errorf(fault.Environment, "%s: the engine's disk is full: %w", what, err).Hintf("make room and run the command again")
	}
	if strings.Contains(err.Error(), "blob digest mismatch") {
		return fault.Errorf(fault.Verification, "%s: an input is not what the lock says: %w", what, err)
	}
	return elsewhere(fault.Errorf(fault.Environment, "%s: the build engine: %w", what, err).Hintf("see the engine's log"))
}

// count adds a solve to the statistics. A step that never started counts as
// neither; one whose result comes from another engine's cache starts, and turns
// out to be cached.
func (e *Engine) count(o *observer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case o.cached:
		e.stats.Cached++
	case o.ran:
		e.stats.Run++
	}
}

// full gives "no space left on device" its class.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fault.Errorf(fault.Environment, "%w", err).Hintf("make room on that disk and run the command again")
	}
	return err
}

// sink passes the tar stream on and keeps the writer's own error, which
// otherwise comes back from the engine as text.
type sink struct {
	w   io.Writer
	mu  sync.Mutex
	err error
}

// Write implements io.Writer.
func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err != nil {
		s.mu.Lock()
		if s.err == nil {
			s.err = err
		}
		s.mu.Unlock()
	}
	return n, err
}

// Close implements io.Closer; the writer is the caller's to close.
func (s *sink) Close() error { return nil }

func (s *sink) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
