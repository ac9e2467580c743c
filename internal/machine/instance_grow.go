package machine

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// maxData is the largest data disk: what ext4 with blocks of 4 KiB can hold.
const maxData = 16 << 40

// Grow makes the data disk size bytes large, a multiple of 1 MiB, and never
// smaller than it is. It takes room on this machine as the guest writes, or at once
// under a hypervisor that needs that (vm.RoomTaker). Growing to the size it has is no error, and finishes a
// growth that was interrupted.
func (i *Instance) Grow(ctx context.Context, size int64) (Grown, error) {
	unlock, err := i.r.lock(ctx, i.Name())
	if err != nil {
		return Grown{}, err
	}
	defer unlock()
	// It may have been started or stopped since i was loaded.
	now, err := i.r.Instance(ctx, i.Name())
	if err != nil {
		return Grown{}, err
	}
	return now.grow(ctx, size)
}

func (i *Instance) grow(ctx context.Context, size int64) (Grown, error) {
	g := Grown{Size: size}
	if size%(1<<20) != 0 || size > maxData {
		return g, fault.Errorf(fault.Usage, "a data disk of %d bytes is not a whole number of MiB up to 16 TiB", size)
	}
	var err error
	if g.Before, err = growImage(i.dataPath(), size, !i.thin()); err != nil {
		return g, err
	}
	if _, g.Online, err = i.running(ctx); err != nil || !g.Online {
		return g, err
	}
	grower, err := able[vm.DiskGrower](i, "grow a disk of a running machine")
	if err != nil {
		return g, err
	}
	if err := grower.GrowDisk(ctx, i.dir, i.manifest.VM.Data.Serial, size); err != nil {
		return g, err
	}
	err = i.ask(ctx, func(s *Agent) error { return s.Grow(ctx) })
	if err != nil {
		return g, fault.Wrap(fault.Device, fmt.Errorf("the disk of %s has grown, its file system has not: %w", i.Name(), err))
	}
	return g, nil
}

// growImage extends the image, with its room where it is to have that, and
// returns the size it had.
func growImage(path string, size int64, room bool) (before int64, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, fault.Errorf(fault.Environment, "the data disk: %w", err).
			Hintf("start the machine once: that makes its data disk")
	}
	defer func() { err = errors.Join(err, fault.Wrap(fault.Environment, f.Close())) }()
	info, err := f.Stat()
	if err != nil {
		return 0, fault.Wrap(fault.Environment, err)
	}
	if size < info.Size() {
		return info.Size(), fault.Errorf(fault.Usage, "the data disk has %d MiB, and %d MiB are less: it is never made smaller", info.Size()>>20, size>>20).
			Hintf("give a larger size")
	}
	if room {
		if err := allocate(f, size); err != nil {
			return info.Size(), err
		}
	}
	if err := errors.Join(f.Truncate(size), f.Sync()); err != nil {
		return info.Size(), fault.Errorf(fault.Environment, "growing the data disk %s to %d bytes: %w", path, size, err).
			Hintf("use a file system that allows files of this size")
	}
	return info.Size(), nil
}
