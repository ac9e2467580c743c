// Package vhostvsock is a vsock device for QEMU that needs nothing of the host's
// kernel: a vhost-user device, which QEMU connects to, and which carries the
// guest's connections by unix sockets in a directory.
//
//	DIR/CID.sock       whoever connects says "CONNECT PORT\n" and, when the guest
//	                   listens there, hears "OK NUMBER\n", and the stream follows
//	DIR/CID.sock_PORT  is connected to when the guest connects to that port of its host
//
// as vhost-device-vsock and Firecracker have it. It stands in for /dev/vhost-vsock
// in tests; phones have the real one.
package vhostvsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Requests of the vhost-user protocol (QEMU's docs/interop/vhost-user.rst).
const (
	getFeatures         = 1
	setFeatures         = 2
	setOwner            = 3
	setMemTable         = 5
	setVringNum         = 8
	setVringAddr        = 9
	setVringBase        = 10
	getVringBase        = 11
	setVringKick        = 12
	setVringCall        = 13
	setVringErr         = 14
	getProtocolFeatures = 15
	setProtocolFeatures = 16
	getQueueNum         = 17
	setVringEnable      = 18
	getConfig           = 24
)

const (
	version       = 1
	replyFlag     = 4
	needReplyFlag = 8
	noFD          = 0x100

	featVersion1 = 1 << 32
	featPlatform = 1 << 33 // VIRTIO_F_ACCESS_PLATFORM: what a protected guest wants
	featProtocol = 1 << 30
	protReplyAck = 1 << 3
	protConfig   = 1 << 9

	headerSize = 12
	maxPayload = 4096
	queues     = 3 // receive, transmit, events
)

const (
	rxQueue = 0
	txQueue = 1
)

// Device is the device of one machine.
type Device struct {
	cid  uint64
	note func(string)

	mu    sync.Mutex // of all that follows, the guest's memory too
	mem   memory
	rings [queues]ring
	sockets
}

// New makes the device of the machine with a number. note takes what goes wrong.
func New(cid uint64, note func(string)) *Device {
	d := &Device{cid: cid, note: note}
	d.sockets.init(&d.mu)
	return d
}

// Serve speaks with QEMU until it ends, which is no error.
func (d *Device) Serve(conn *net.UnixConn) error {
	defer d.stop()
	for {
		m, err := receive(conn)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		reply, err := d.handle(m)
		if err != nil {
			return fmt.Errorf("vhost-user request %d: %w", m.request, err)
		}
		if reply == nil && m.flags&needReplyFlag != 0 {
			reply = make([]byte, 8)
		}
		if reply != nil {
			head := make([]byte, headerSize, headerSize+len(reply))
			binary.LittleEndian.PutUint32(head, m.request)
			binary.LittleEndian.PutUint32(head[4:], version|replyFlag)
			binary.LittleEndian.PutUint32(head[8:], uint32(len(reply)))
			if _, err := conn.Write(append(head, reply...)); err != nil {
				return err
			}
		}
	}
}

type message struct {
	request, flags uint32
	payload        []byte
	fds            []int
}

func (m message) u32(n int) uint32 { return binary.LittleEndian.Uint32(m.payload[4*n:]) }
func (m message) u64(n int) uint64 { return binary.LittleEndian.Uint64(m.payload[8*n:]) }

// receive reads a message with its descriptors.
func receive(conn *net.UnixConn) (m message, err error) {
	head := make([]byte, headerSize)
	oob := make([]byte, 256)
	n, oobn, _, _, err := conn.ReadMsgUnix(head, oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return m, err
	}
	if _, err := io.ReadFull(conn, head[n:]); err != nil {
		return m, err
	}
	controls, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return m, err
	}
	for _, c := range controls {
		fds, err := unix.ParseUnixRights(&c)
		if err != nil {
			return m, err
		}
		m.fds = append(m.fds, fds...)
	}
	m.request, m.flags = binary.LittleEndian.Uint32(head), binary.LittleEndian.Uint32(head[4:])
	size := binary.LittleEndian.Uint32(head[8:])
	if size > maxPayload {
		return m, fmt.Errorf("vhost-user: a message of %d bytes", size)
	}
	m.payload = make([]byte, size)
	_, err = io.ReadFull(conn, m.payload)
	return m, err
}

// least is the size of each request's payload.
var least = map[uint32]int{setFeatures: 8, setMemTable: 8, setVringNum: 8, setVringAddr: 40, setVringBase: 8, getVringBase: 8,
	setVringKick: 8, setVringCall: 8, setVringErr: 8, setProtocolFeatures: 8, setVringEnable: 8, getConfig: 12}

func (d *Device) handle(m message) (reply []byte, err error) {
	if len(m.payload) < least[m.request] {
		return nil, fmt.Errorf("%d bytes", len(m.payload))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	u64 := func(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
	switch m.request {
	case getFeatures:
		return u64(featVersion1 | featPlatform | featProtocol), nil
	case getProtocolFeatures:
		return u64(protReplyAck | protConfig), nil
	case getQueueNum:
		return u64(queues), nil
	case setFeatures, setProtocolFeatures, setOwner, setVringEnable:
		return nil, nil
	case getConfig:
		reply = append([]byte{}, m.payload...)
		if offset := m.u32(0); offset < 8 {
			copy(reply[12:], u64(d.cid)[offset:])
		}
		return reply, nil
	case setMemTable:
		return nil, d.setMemory(m)
	}
	i := m.u32(0) & 0xff
	if i >= queues {
		return nil, fmt.Errorf("queue %d", i)
	}
	r := &d.rings[i]
	switch m.request {
	case setVringNum:
		r.num = m.u32(1)
	case setVringAddr:
		r.descAt, r.usedAt, r.availAt = m.u64(1), m.u64(2), m.u64(3)
	case setVringBase:
		r.next = uint16(m.u32(1))
	case getVringBase:
		d.stopRing(int(i))
		reply = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, i), uint32(r.next))
	case setVringKick:
		d.stopRing(int(i))
		if r.kick, err = eventFile(m, "kick"); r.kick != nil {
			go d.run(int(i), r.kick)
		}
	case setVringCall:
		if r.call != nil {
			r.call.Close()
		}
		r.call, err = eventFile(m, "call")
	case setVringErr:
		for _, fd := range m.fds {
			err = errors.Join(err, unix.Close(fd))
		}
	default:
		err = errors.New("it is not known")
	}
	return reply, err
}

func eventFile(m message, name string) (*os.File, error) {
	if m.u32(0)&noFD != 0 || len(m.fds) == 0 {
		return nil, nil
	}
	if err := unix.SetNonblock(m.fds[0], true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(m.fds[0]), name), nil
}

func (d *Device) setMemory(m message) error {
	var now memory
	for i := range int(m.u32(0)) {
		if len(m.payload) < 8+32*(i+1) || i >= len(m.fds) {
			return errors.New("memory without its description")
		}
		at := 1 + 4*i
		r, err := mapRegion(m.u64(at), m.u64(at+1), m.u64(at+2), m.u64(at+3), m.fds[i])
		err = errors.Join(err, unix.Close(m.fds[i]))
		if err != nil {
			return err
		}
		now = append(now, r)
	}
	// What was mapped before is left: nothing points to it, and a machine's
	// memory changes a handful of times, as it boots.
	d.mem = now
	return nil
}

// run serves a ring as the guest kicks it.
func (d *Device) run(i int, kick *os.File) {
	b := make([]byte, 8)
	for {
		if _, err := kick.Read(b); err != nil {
			return // the ring was stopped
		}
		d.mu.Lock()
		var err error
		if d.rings[i].kick == kick {
			switch i {
			case txQueue:
				err = d.transmit()
			case rxQueue:
				err = d.flush()
			}
		}
		d.mu.Unlock()
		if err != nil {
			d.note(fmt.Sprintf("vsock: queue %d: %v", i, err))
		}
	}
}

func (d *Device) stopRing(i int) {
	r := &d.rings[i]
	if r.kick != nil {
		r.kick.Close()
		r.kick = nil
	}
	if i == rxQueue {
		d.resetAll()
	}
}

// stop ends what the guest had.
func (d *Device) stop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.rings {
		d.stopRing(i)
	}
}

// transmit takes what the guest has sent.
func (d *Device) transmit() error {
	r := &d.rings[txQueue]
	for r.ready() {
		c, ok, err := r.pop(d.mem)
		if err != nil || !ok {
			return err
		}
		b := make([]byte, 0, total(c.read))
		for _, part := range c.read {
			b = append(b, part...)
		}
		if err := r.push(d.mem, c.head, 0); err != nil {
			return err
		}
		if err := r.notify(d.mem); err != nil {
			return err
		}
		d.packet(b)
	}
	return nil
}

// flush gives the guest what waits for it, as far as it has buffers for that.
func (d *Device) flush() error {
	r := &d.rings[rxQueue]
	sent := false
	for r.ready() && len(d.waiting) > 0 {
		c, ok, err := r.pop(d.mem)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		p := d.waiting[0]
		room := total(c.write) - packetHeader
		if room < 0 {
			return errors.New("a buffer without room for a header")
		}
		part := p
		if part.data = p.data; len(p.data) > room {
			part.data = p.data[:room]
			d.waiting[0].data = p.data[room:]
		} else {
			d.waiting = d.waiting[1:]
		}
		d.waitingBytes -= len(part.data)
		n := scatter(c.write, d.encode(part))
		if err := r.push(d.mem, c.head, n); err != nil {
			return err
		}
		sent = true
	}
	if !sent {
		return nil
	}
	d.room.Broadcast()
	return r.notify(d.mem)
}
