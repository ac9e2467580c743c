package android

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// A phone's properties are files that init writes and everybody maps. Waiting
// for a change of any of them is a futex on a word of properties_serial, so that
// nobody has to look again and again. The layout is prop_area.h's and
// prop_info.h's, the same from Android 8 to 16:
//
//	area: uint32 bytes used, uint32 serial, uint32 magic, uint32 version, …; data at 128
//	info: uint32 serial, char value[92], char name[], NUL
const (
	propDir     = "/dev/__properties__"
	areaMagic   = 0x504f5250
	areaData    = 128
	areaMost    = 1 << 20
	valueMax    = 92
	serialBytes = 4
)

// The properties that say that the phone is shutting down, with the areas that
// they are in. The framework sets the first when its owner asks, some seconds
// before init is told by the second; a shutdown from elsewhere has the second
// alone.
var shutdownProperties = []struct{ name, area string }{
	{"sys.shutdown.requested", "u:object_r:exported_system_prop:s0"},
	{"sys.powerctl", "u:object_r:powerctl_prop:s0"},
}

// area is one that is mapped for reading.
type area []byte

func openArea(path string) (area, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	if info.Size() < areaData || info.Size() > areaMost {
		return nil, fault.Errorf(fault.Environment, "%s is no area of properties: it has %d bytes", path, info.Size())
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, &os.PathError{Op: "mmap", Path: path, Err: err})
	}
	a := area(mem)
	if magic := binary.LittleEndian.Uint32(a[8:]); magic != areaMagic {
		err := fault.Errorf(fault.Environment, "%s is no area of properties: its magic is %#x", path, magic)
		return nil, errors.Join(err, unix.Munmap(mem))
	}
	return a, nil
}

func (a area) word(offset int) *uint32 { return (*uint32)(unsafe.Pointer(&a[offset])) }

// value looks for a property's value, "" for one that is not set. Its name
// stands behind its value, wherever the tree over the names has put them.
func (a area) value(name string) string {
	used := min(int64(areaData)+int64(atomic.LoadUint32(a.word(0))), int64(len(a)))
	return findValue(a[areaData:used], name)
}

// findValue looks in the data of an area.
func findValue(data []byte, name string) string {
	word := append([]byte(name), 0)
	for at := 0; ; {
		n := bytes.Index(data[at:], word)
		if n < 0 {
			return ""
		}
		at += n
		begin := at - valueMax
		// Infos are aligned, and a longer name may end like this one.
		if begin >= serialBytes && begin%4 == 0 && data[at-1] == 0 {
			value, _, _ := bytes.Cut(data[begin:at], []byte{0})
			return string(bytes.Clone(value))
		}
		at++
	}
}

// shutdown waits for the phone's.
type shutdown struct {
	serial area
	areas  []area // of shutdownProperties; nil where there is none yet
	dir    string
}

func (r root) watchShutdown() (*shutdown, error) {
	dir := r.path(propDir)
	serial, err := openArea(dir + "/properties_serial")
	if err != nil {
		return nil, err
	}
	s := &shutdown{serial: serial, dir: dir, areas: make([]area, len(shutdownProperties))}
	found := 0
	for i, p := range shutdownProperties {
		if s.areas[i], err = openArea(dir + "/" + p.area); err == nil {
			found++
		}
	}
	if found == 0 {
		return nil, err
	}
	return s, nil
}

// asked is the property that says so, "" for none.
func (s *shutdown) asked() string {
	for i, p := range shutdownProperties {
		if s.areas[i] == nil {
			continue
		}
		if v := s.areas[i].value(p.name); v != "" {
			return fmt.Sprintf("%s is %q", p.name, v)
		}
	}
	return ""
}

// wait returns the property that says so, once one does. It cannot be ended: it
// is for the life of the process.
func (s *shutdown) wait() string {
	runtime.LockOSThread()
	word := s.serial.word(4)
	for {
		before := atomic.LoadUint32(word)
		if why := s.asked(); why != "" {
			return why
		}
		// FUTEX_WAIT, shared with init: it returns at once where it is another
		// number by now.
		unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), 0, uintptr(before), 0, 0, 0) //nolint:errcheck // whatever woke it, the word is read again
	}
}
