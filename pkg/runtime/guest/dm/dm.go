// Package dm speaks with the kernel's device mapper: it makes, changes and
// removes block devices that are mapped onto others. In come a name and a
// Target, out goes a device node. It knows none of the targets; the words of a
// target's parameters and of its status are the kernel's
// (Documentation/admin-guide/device-mapper).
//
// A device has two slots: the table that is active, and one that waits. Load
// fills the one that waits, and Resume makes it the active one.
package dm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctl's structure and numbers, of <linux/dm-ioctl.h>: the head of a buffer,
// and one target behind it.
const (
	headSize   = 312
	targetSize = 40
	nameSize   = 128
	typeSize   = 16

	atVersion, atSize, atStart, atCount, atFlags, atDev, atName = 0, 12, 16, 20, 28, 40, 48

	devCreate, devRemove, devSuspend, tableLoad, tableClear, tableStatus = 3, 4, 6, 9, 10, 12

	flagReadOnly   = 1 << 0
	flagSuspend    = 1 << 1
	flagTruncated  = 1 << 8
	flagSkipLockFS = 1 << 10

	maxStatus = 4 << 10 // bytes of a target's status
)

const control = "/dev/mapper/control"

// Target is what a device is mapped by, over all its length.
type Target struct {
	Sectors uint64 // of 512 bytes
	Type    string // "linear"
	Params  string
}

// Create makes a device of one target, which is active at once, and returns its
// node.
func Create(name string, t Target, readOnly bool) (node string, err error) {
	b, err := call(devCreate, name, 0, nil)
	if err != nil {
		return "", err
	}
	dev := binary.NativeEndian.Uint64(b[atDev:])
	err = Load(name, t, readOnly)
	if err == nil {
		err = Resume(name)
	}
	if err != nil {
		if gone := Remove(name); gone != nil {
			err = fmt.Errorf("%w; %w", err, gone)
		}
		return "", err
	}
	return fmt.Sprintf("/dev/dm-%d", unix.Minor(dev)), nil
}

// CreateEmpty makes a device without a table.
func CreateEmpty(name string) error {
	_, err := call(devCreate, name, 0, nil)
	return err
}

// Load gives a device the table that its next Resume makes active.
func Load(name string, t Target, readOnly bool) error {
	if len(t.Type) >= typeSize {
		return fmt.Errorf("device mapper: target type %q", t.Type)
	}
	flags := uint32(0)
	if readOnly {
		flags = flagReadOnly
	}
	b := make([]byte, targetSize, targetSize+len(t.Params)+8)
	binary.NativeEndian.PutUint64(b[8:], t.Sectors)
	copy(b[24:], t.Type)
	b = append(b, t.Params...)
	b = append(b, make([]byte, 8-len(b)%8)...) // a zero byte at least
	if _, err := call(tableLoad, name, flags, b); err != nil {
		return fmt.Errorf("%w (%s): the kernel log has the reason", err, t.Type)
	}
	return nil
}

// Clear forgets the table that waits.
func Clear(name string) error {
	_, err := call(tableClear, name, 0, nil)
	return err
}

// Suspend holds what is written to and read from a device, and waits for what is
// on its way. The file system on it is not asked to come to rest, and is not
// told.
func Suspend(name string) error {
	_, err := call(devSuspend, name, flagSuspend|flagSkipLockFS, nil)
	return err
}

// Resume makes the table that waits the active one, if there is one, and lets
// the device go on. One that is not suspended is for that moment, as by Suspend.
func Resume(name string) error {
	_, err := call(devSuspend, name, flagSkipLockFS, nil)
	return err
}

// Remove removes a device that nobody has open.
func Remove(name string) error {
	_, err := call(devRemove, name, 0, nil)
	return err
}

// Status is what the active table's target says of itself.
func Status(name string) (string, error) {
	b, err := call(tableStatus, name, 0, make([]byte, maxStatus))
	if err != nil {
		return "", err
	}
	return parseStatus(b)
}

// parseStatus reads the status of the first target of an answer.
func parseStatus(b []byte) (string, error) {
	if len(b) < headSize {
		return "", fmt.Errorf("device mapper: an answer of %d bytes", len(b))
	}
	e := binary.NativeEndian
	start, count := e.Uint32(b[atStart:]), e.Uint32(b[atCount:])
	switch {
	case e.Uint32(b[atFlags:])&flagTruncated != 0:
		return "", fmt.Errorf("device mapper: a status over %d bytes", maxStatus)
	case count == 0:
		return "", fmt.Errorf("device mapper: the device has no table")
	case uint64(start)+targetSize > uint64(len(b)):
		return "", fmt.Errorf("device mapper: a status at byte %d of %d", start, len(b))
	}
	text, _, _ := bytes.Cut(b[start+targetSize:], []byte{0})
	return string(text), nil
}

// request is the buffer of a call.
func request(name string, flags uint32, payload []byte) ([]byte, error) {
	if name == "" || len(name) >= nameSize {
		return nil, fmt.Errorf("device mapper: a name of %d bytes", len(name))
	}
	b := make([]byte, headSize, headSize+len(payload))
	e := binary.NativeEndian
	e.PutUint32(b[atVersion:], 4) // 4.0.0: what every kernel since 2.6 takes
	e.PutUint32(b[atSize:], uint32(headSize+len(payload)))
	e.PutUint32(b[atStart:], headSize)
	e.PutUint32(b[atCount:], 1)
	e.PutUint32(b[atFlags:], flags)
	copy(b[atName:], name)
	return append(b, payload...), nil
}

func call(command uintptr, name string, flags uint32, payload []byte) ([]byte, error) {
	b, err := request(name, flags, payload)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(control, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("device mapper: %w: the kernel needs BLK_DEV_DM", err)
	}
	defer f.Close()
	const readWrite, group = 3, 0xfd // _IOWR(DM_IOCTL, command, struct dm_ioctl)
	number := uintptr(readWrite)<<30 | headSize<<16 | group<<8 | command
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), number, uintptr(unsafe.Pointer(&b[0])))
	runtime.KeepAlive(b)
	if errno != 0 {
		return nil, fmt.Errorf("device mapper: %s %s: %w", word(command, flags), name, errno)
	}
	return b, nil
}

// word is a command in messages.
func word(command uintptr, flags uint32) string {
	switch command {
	case devCreate:
		return "create"
	case devRemove:
		return "remove"
	case tableLoad:
		return "load"
	case tableClear:
		return "clear"
	case tableStatus:
		return "status of"
	}
	if flags&flagSuspend != 0 {
		return "suspend"
	}
	return "resume"
}
