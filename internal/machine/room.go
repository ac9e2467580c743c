package machine

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// Under a hypervisor that fails a guest's write where the host is full, a data
// disk has its room before the machine starts, or, where its owner wants it thin,
// the machine is shut down in order before there is none: a database does not
// survive such a failure, and the file system is read-only from then on.
const (
	// reserve is the room, in bytes, below which a thin machine is shut down: for
	// what its guest writes until the next look and in its shutdown. It is started
	// again with twice as much.
	reserve = 1 << 30
	// reserveEvery is how often that is looked at. A phone's storage takes a few
	// hundred megabytes a second from one writer.
	reserveEvery = 2 * time.Second
)

// takesRoom says whether the hypervisor is one of that kind.
func (r *Runtime) takesRoom() bool {
	t, ok := r.hv.(vm.RoomTaker)
	return ok && t.TakesRoom()
}

// thin says whether the data disk takes room only as it is written to.
func (i *Instance) thin() bool { return i.rec.Options.Thin || !i.r.takesRoom() }

// takeRoom gives the data disk all of its room, where it is to have it, and does
// nothing where it has.
func (i *Instance) takeRoom(data *os.File) error {
	if i.thin() {
		return nil
	}
	info, err := data.Stat()
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	return allocate(data, info.Size())
}

// allocate gives a file its room up to a size, which it has then.
func allocate(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if err == nil {
		return nil
	}
	_, free, roomErr := roomAt(f.Name())
	switch {
	case errors.Is(err, unix.ENOSPC) && roomErr == nil:
		return fault.Errorf(fault.Environment, "the data disk %s takes %d MiB, and %d MiB are free there", f.Name(), size>>20, free>>20).
			Hintf("make room, or let it take room only as it is written to, with the option --thin")
	case errors.Is(err, unix.EOPNOTSUPP):
		return fault.Errorf(fault.Environment, "the file system of %s cannot set room aside for a file", f.Name()).
			Hintf("use ext4, XFS, Btrfs or F2FS, or the option --thin")
	}
	return fault.Wrap(fault.Environment, fmt.Errorf("room for the data disk %s: %w", f.Name(), err))
}

// startRoom is what must be free for the machine to start, in bytes.
func (i *Instance) startRoom() int64 {
	if i.rec.Options.Thin && i.r.takesRoom() {
		return 2 * reserve
	}
	return minFree
}

// lookRoom sees to the reserve of a thin machine that runs.
func (i *Instance) lookRoom(w *world) (err error) {
	if !i.rec.Options.Thin || !i.r.takesRoom() {
		return nil
	}
	_, w.room, err = roomAt(i.dataPath())
	w.thin = true
	return err
}
