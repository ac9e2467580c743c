package machine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// initLog is the name under which sovereign-init keeps its own log.
const initLog = "init"

// maxLog bounds what the guest keeps of a log, in bytes: 512 KiB, and more in
// a later version.
const maxLog = 16 << 20

// maxLogLine bounds a line of a log, in bytes; a longer one comes in parts.
const maxLogLine = 64 << 10

// LogNames are what Logs takes: the services, and sovereign-init's own.
func (i *Instance) LogNames() []string { return append([]string{initLog}, i.manifest.Services...) }

// Logs gives the newest lines of the services (of all when none is named) to
// line, one service after the other. With follow the services come as they
// write, until ctx ends, which is no error, or the guest does. line is called
// by one goroutine at a time; its error ends Logs.
func (i *Instance) Logs(ctx context.Context, services []string, follow bool, line func(LogLine) error) error {
	if len(services) == 0 {
		services = i.LogNames()
	} else if err := i.checkServices(services...); err != nil {
		return err
	}
	err := i.ask(ctx, func(s *session) error {
		if !follow {
			for _, service := range services {
				if err := readLog(ctx, s, service, false, line); err != nil {
					return err
				}
			}
			return nil
		}
		var mu sync.Mutex
		group, ctx := errgroup.WithContext(ctx)
		for _, service := range services {
			group.Go(func() error {
				return readLog(ctx, s, service, true, func(l LogLine) error {
					mu.Lock()
					defer mu.Unlock()
					return line(l)
				})
			})
		}
		return group.Wait()
	})
	if follow && ctx.Err() != nil {
		return nil
	}
	return err
}

// readLog gives a service's lines to line. Without follow it has read all
// before the first: the guest gives up on one who takes it slowly, as a pager
// does.
func readLog(ctx context.Context, s *session, service string, follow bool, line func(LogLine) error) error {
	body, err := s.Logs(ctx, service, follow)
	if err != nil {
		return err
	}
	defer body.Close()
	log := io.Reader(body)
	if !follow {
		text, err := io.ReadAll(io.LimitReader(body, maxLog+1))
		if err != nil {
			return brokenLog(ctx, service, err)
		}
		if len(text) > maxLog {
			return fault.Errorf(fault.Device, "the log of %s: the guest sends more than %d bytes", service, maxLog)
		}
		log = bytes.NewReader(text)
	}
	r := bufio.NewReaderSize(log, maxLogLine)
	for {
		text, err := r.ReadSlice('\n')
		if len(text) > 0 {
			if err := line(LogLine{Service: service, Text: strings.TrimSuffix(string(text), "\n")}); err != nil {
				return err
			}
		}
		switch {
		case err == nil || errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil
		default:
			return brokenLog(ctx, service, err)
		}
	}
}

// brokenLog is the error of a log that ends in the middle.
func brokenLog(ctx context.Context, service string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fault.Wrap(fault.Device, fmt.Errorf("the log of %s: %w", service, err))
}

// checkServices finds the name of no service, and says which there are.
func (i *Instance) checkServices(names ...string) error {
	known := i.LogNames()
	for _, name := range names {
		if !slices.Contains(known, name) {
			return fault.Errorf(fault.Usage, "%s has no service %q", i.Name(), name).
				Hintf("choose one of: %s", strings.Join(known, ", "))
		}
	}
	return nil
}
