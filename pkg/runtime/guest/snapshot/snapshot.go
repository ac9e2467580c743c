// Package snapshot has a disk stand still for one who reads it from outside,
// while its file system goes on. In come the data disk and a scratch disk; out
// goes a device for the file system, which Take and Release change under it.
//
// # The instant
//
// The device is a dm-linear on the data disk. Take makes the scratch disk the
// store of a persistent dm-snapshot and then, in this order: suspends the device
// without asking the file system to come to rest, activates the snapshot, and
// lets the device go on as a snapshot-origin. Between the first and the last no
// write ends: that is the hold. From then on the kernel copies a chunk into the
// store before the first write to it. What is on the disk at the instant is what
// a power cut there had left: each service had its fsyncs, and nobody waited for
// a sync of all. (FIFREEZE, which is such a sync, took 67 to 446 ms where this
// took 4 to 54, under Linux 6.12 and TCG; it does not grow with the disk.)
//
// # What can go wrong
//
// A store that is full or fails makes the snapshot invalid, and the file system
// never hears of it (dm-snap.c, __invalidate_snapshot). A machine that ends has
// nothing to undo: the next one maps the disk by a dm-linear again, and clears
// the store before it uses it. So nothing in the store has to outlive anything,
// and its disk is not asked to flush.
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/blockdev"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/dm"
)

// Serial is the virtio serial of the scratch disk.
const Serial = "scratch"

const (
	deviceName   = "data"
	snapshotName = "snapshot"
	// chunkSectors is the size of what is copied before its first write, in
	// sectors: 16 KiB, of which an entry of 16 bytes tells.
	chunkSectors = 32
	clearBytes   = 64 << 10 // at the store's start: header and first table
	findScratch  = time.Second
)

// ErrHeld says that the disk is held by a snapshot.
var ErrHeld = errors.New("a snapshot of the data disk is held")

// Disk is the data disk, mapped. Its methods may be called from several
// goroutines.
type Disk struct {
	raw  string // "/dev/vdb"
	node string // "/dev/dm-1"

	mu      sync.Mutex
	sectors uint64
	held    bool
	scratch string
}

// Open maps the disk, whose node nobody else has open. Nothing of it is read.
func Open(raw string) (*Disk, error) {
	sectors, err := sectorsOf(raw)
	if err != nil {
		return nil, err
	}
	d := &Disk{raw: raw, sectors: sectors}
	if d.node, err = dm.Create(deviceName, d.linear(), false); err != nil {
		return nil, err
	}
	return d, nil
}

// Device is the node to use the disk by.
func (d *Disk) Device() string { return d.node }

func (d *Disk) linear() dm.Target {
	return dm.Target{Sectors: d.sectors, Type: "linear", Params: d.raw + " 0"}
}

// Fill makes the device as large as its disk, which has grown. While a snapshot
// is held it is ErrHeld.
func (d *Disk) Fill() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	sectors, err := sectorsOf(d.raw)
	if err != nil || sectors <= d.sectors {
		return err
	}
	if d.held {
		return fmt.Errorf("%w: the disk grows when it is released", ErrHeld)
	}
	former := d.sectors
	d.sectors = sectors
	err = dm.Load(deviceName, d.linear(), false)
	if err == nil {
		err = dm.Resume(deviceName)
	}
	if err != nil {
		d.sectors = former
	}
	return err
}

// Taken is a snapshot.
type Taken struct {
	At   time.Time
	Hold time.Duration // for which no write ended
	Size int64         // of the disk, in bytes
}

// Take takes a snapshot, of which there is one at a time. The error of a machine
// without a scratch disk is fs.ErrNotExist.
func (d *Disk) Take(ctx context.Context) (Taken, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.held {
		return Taken{}, ErrHeld
	}
	find, cancel := context.WithTimeout(ctx, findScratch)
	defer cancel()
	scratch, err := blockdev.Find(find, blockdev.Sysfs, Serial)
	if err != nil {
		return Taken{}, fmt.Errorf("%w: %w: the machine has no scratch disk: stop and start it", os.ErrNotExist, err)
	}
	d.scratch = scratch.Device()
	if err := clear(d.scratch, scratch.Queue()); err != nil {
		return Taken{}, fmt.Errorf("snapshot: the scratch disk: %w", err)
	}
	t, err := d.take()
	if err != nil {
		return Taken{}, fmt.Errorf("snapshot: %w", err)
	}
	d.held = true
	return t, nil
}

// take leaves the device as it was where it fails.
func (d *Disk) take() (Taken, error) {
	if err := dm.CreateEmpty(snapshotName); err != nil {
		return Taken{}, err
	}
	t, err := d.activate()
	if err != nil {
		err = errors.Join(err, dm.Remove(snapshotName))
	}
	return t, err
}

func (d *Disk) activate() (t Taken, err error) {
	params := fmt.Sprintf("%s %s P %d", d.raw, d.scratch, chunkSectors)
	if err := dm.Load(snapshotName, dm.Target{Sectors: d.sectors, Type: "snapshot", Params: params}, false); err != nil {
		return t, err
	}
	if err := dm.Load(deviceName, dm.Target{Sectors: d.sectors, Type: "snapshot-origin", Params: d.raw}, false); err != nil {
		return t, err
	}
	begin := time.Now()
	err = dm.Suspend(deviceName)
	if err == nil {
		t.At = time.Now()
		err = dm.Resume(snapshotName)
	}
	if err != nil {
		// Whatever was wrong, the services go on, on the table they had.
		return t, errors.Join(err, dm.Clear(deviceName), dm.Resume(deviceName))
	}
	if err := dm.Resume(deviceName); err != nil {
		return t, err
	}
	t.Hold, t.Size = time.Since(begin), int64(d.sectors)*512
	return t, nil
}

// Release ends the snapshot; without one it does nothing.
func (d *Disk) Release() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.held {
		return nil
	}
	err := dm.Load(deviceName, d.linear(), false)
	if err == nil {
		err = dm.Resume(deviceName)
	}
	if err == nil {
		err = dm.Remove(snapshotName)
	}
	if err != nil {
		return fmt.Errorf("snapshot: release: %w", err)
	}
	d.held = false
	// What the host gave for the store it gets back; one that cannot take it has
	// it at the machine's end.
	_ = discard(d.scratch)
	return nil
}

// Store is what the snapshot's store has, in bytes.
type Store struct {
	Used int64
	Size int64
	// Invalid says why the snapshot is of no use any more; empty where it is.
	Invalid string
}

// Store asks the kernel about the snapshot that is held.
func (d *Disk) Store() (Store, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.held {
		return Store{}, os.ErrNotExist
	}
	text, err := dm.Status(snapshotName)
	if err != nil {
		return Store{}, err
	}
	return parseStore(text)
}

// parseStore reads what dm-snapshot says: "USED/SIZE METADATA" in sectors, or a
// word.
func parseStore(text string) (Store, error) {
	switch strings.TrimSpace(text) {
	case "Invalid", "Overflow":
		return Store{Invalid: "its store was full, or failed"}, nil
	}
	first, _, _ := strings.Cut(text, " ")
	used, size, ok := strings.Cut(first, "/")
	u, err := strconv.ParseInt(used, 10, 53)
	s, err2 := strconv.ParseInt(size, 10, 53)
	if !ok || err != nil || err2 != nil || u < 0 || s < 0 {
		return Store{}, fmt.Errorf("snapshot: the kernel says %.100q of it", text)
	}
	return Store{Used: u * 512, Size: s * 512}, nil
}

// clear makes the scratch disk an empty store. queue is where sysfs has the
// settings of its requests.
func clear(device, queue string) error {
	// Without flushes, which nothing here needs: see above.
	if err := os.WriteFile(filepath.Join(queue, "write_cache"), []byte("write through"), 0); err != nil {
		return err
	}
	_ = discard(device) // it saves room only
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, clearBytes))
	return errors.Join(err, f.Sync(), f.Close())
}

// discard says that nothing on a disk is needed.
func discard(device string) error {
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	span := [2]uint64{0, uint64(size)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&span))); errno != 0 {
		return errno
	}
	return nil
}

func sectorsOf(device string) (uint64, error) {
	f, err := os.Open(device)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	return uint64(size) / 512, err
}
