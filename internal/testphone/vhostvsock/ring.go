package vhostvsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// region is a part of the guest's memory.
type region struct {
	guest, user uint64 // its address in the guest, and in QEMU
	size        uint64
	mem         []byte
}

// memory is the guest's.
type memory []region

// mapRegion maps a part of the guest's memory by its descriptor.
func mapRegion(guest, size, user, offset uint64, fd int) (region, error) {
	whole, err := unix.Mmap(fd, 0, int(offset+size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return region{}, fmt.Errorf("guest memory of %d bytes: %w", size, err)
	}
	return region{guest, user, size, whole[offset:]}, nil
}

var errAddress = errors.New("an address outside of the guest's memory")

func (m memory) find(at, size uint64, start func(region) uint64) ([]byte, error) {
	for _, r := range m {
		if from := start(r); at >= from && at-from <= r.size && size <= r.size-(at-from) {
			return r.mem[at-from:][:size], nil
		}
	}
	return nil, errAddress
}

func (m memory) guest(at, size uint64) ([]byte, error) {
	return m.find(at, size, func(r region) uint64 { return r.guest })
}

func (m memory) user(at, size uint64) ([]byte, error) {
	return m.find(at, size, func(r region) uint64 { return r.user })
}

// ring is a split virtqueue (virtio 1.1, 2.6). Its owner holds the device's lock.
type ring struct {
	num                     uint32
	descAt, usedAt, availAt uint64 // in QEMU
	next                    uint16 // of the available ring
	kick, call              *os.File
}

const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4
	noInterrupt  = 1
)

// ready says whether the ring can be used.
func (r *ring) ready() bool { return r.kick != nil && r.num > 0 && r.availAt != 0 }

// index reads the index of a ring, which follows 2 bytes of flags: both at once,
// as a word, so that what the guest wrote before it is seen.
func index(ring []byte) (flags, idx uint16) {
	v := atomic.LoadUint32((*uint32)(unsafe.Pointer(&ring[0])))
	return uint16(v), uint16(v >> 16)
}

// chain is what the guest has made available: buffers to read, and to write to.
type chain struct {
	head        uint16
	read, write [][]byte
}

// pop takes the next chain; ok is false where there is none.
func (r *ring) pop(m memory) (c chain, ok bool, err error) {
	avail, err := m.user(r.availAt, uint64(4+2*r.num))
	if err != nil {
		return c, false, err
	}
	if _, idx := index(avail); idx == r.next {
		return c, false, nil
	}
	c.head = binary.LittleEndian.Uint16(avail[4+2*(uint32(r.next)%r.num):])
	r.next++
	table, err := m.user(r.descAt, uint64(16*r.num))
	if err != nil {
		return c, false, err
	}
	i, size := uint32(c.head), r.num
	for steps := uint32(0); ; steps++ {
		if i >= size || steps > size {
			return c, false, errors.New("a chain of buffers that leads nowhere")
		}
		d := table[16*i:]
		at, length := binary.LittleEndian.Uint64(d), binary.LittleEndian.Uint32(d[8:])
		flags, next := binary.LittleEndian.Uint16(d[12:]), binary.LittleEndian.Uint16(d[14:])
		b, err := m.guest(at, uint64(length))
		if err != nil {
			return c, false, err
		}
		if flags&descIndirect != 0 {
			table, i, size, steps = b, 0, length/16, 0
			continue
		}
		if flags&descWrite != 0 {
			c.write = append(c.write, b)
		} else {
			c.read = append(c.read, b)
		}
		if flags&descNext == 0 {
			return c, true, nil
		}
		i = uint32(next)
	}
}

// push gives a chain back, with the bytes that were written to it.
func (r *ring) push(m memory, head uint16, written int) error {
	used, err := m.user(r.usedAt, uint64(4+8*r.num))
	if err != nil {
		return err
	}
	flags, idx := index(used)
	e := used[4+8*(uint32(idx)%r.num):]
	binary.LittleEndian.PutUint32(e, uint32(head))
	binary.LittleEndian.PutUint32(e[4:], uint32(written))
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&used[0])), uint32(flags)|uint32(idx+1)<<16)
	return nil
}

// notify interrupts the guest, unless it does not want that.
func (r *ring) notify(m memory) error {
	avail, err := m.user(r.availAt, 4)
	if err != nil || r.call == nil {
		return err
	}
	if flags, _ := index(avail); flags&noInterrupt != 0 {
		return nil
	}
	_, err = r.call.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
	return err
}

// scatter copies b over the buffers, and returns how much there was room for.
func scatter(to [][]byte, b []byte) int {
	n := 0
	for _, t := range to {
		n += copy(t, b[n:])
	}
	return n
}

func total(buffers [][]byte) (n int) {
	for _, b := range buffers {
		n += len(b)
	}
	return n
}
