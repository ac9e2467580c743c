package process

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// findLimit bounds the wait of Find, findEvery is the pause between two looks.
	findLimit = 20 * time.Second
	findEvery = 10 * time.Millisecond
)

// Find returns the process that listens on socket, as listener has it (Listener or
// PacketListener). One that was started a moment ago, by somebody who was killed
// then, may not have come that far: it shows by its lock, a file, and is waited
// for. One that has the lock and never listens is an error of class fault.Device.
func Find(ctx context.Context, socket, lock string, listener func(context.Context, string) (Process, bool, error)) (Process, bool, error) {
	limit, cancel := context.WithTimeout(ctx, findLimit)
	defer cancel()
	for {
		p, ok, err := listener(ctx, socket)
		busy := errors.Is(err, unix.EAGAIN) // others connect at the same time
		if ok || err != nil && !busy {
			return p, ok, err
		}
		locked, err := Locked(lock)
		if err != nil || !locked && !busy {
			return Process{}, false, err
		}
		if err := pause.For(limit, findEvery); err != nil {
			return Process{}, false, fault.Errorf(fault.Device, "a process has %s locked and does not answer at %s: %w", filepath.Base(lock), filepath.Base(socket), err).
				Hintf("end it: fuser %s names it", lock)
		}
	}
}
