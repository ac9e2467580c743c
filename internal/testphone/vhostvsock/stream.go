package vhostvsock

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// A packet of vsock (virtio 1.2, 5.10.6; include/uapi/linux/virtio_vsock.h).
const (
	packetHeader = 44
	typeStream   = 1
	hostCID      = 2

	opRequest       = 1
	opResponse      = 2
	opReset         = 3
	opShutdown      = 4
	opData          = 5
	opCreditUpdate  = 6
	opCreditRequest = 7

	shutReceive = 1
	shutSend    = 2
)

const (
	// bufferSize is what a stream holds of what the guest has sent, in bytes.
	bufferSize = 256 << 10
	// maxWaiting bounds what waits for buffers of the guest's.
	maxWaiting = 1 << 20
	// connectLimit is the kernel's own for a connection that is not answered.
	connectLimit = 2 * time.Second
	firstPort    = 1 << 30
)

type packet struct {
	hostPort, guestPort uint32
	op                  uint16
	flags               uint32
	data                []byte
	stream              *stream // nil: there is none (any more)
}

// sockets are the streams of a device, under its lock.
type sockets struct {
	room         *sync.Cond // something has changed: credit, room, an end
	waiting      []packet   // for the guest
	waitingBytes int
	streams      map[[2]uint32]*stream // by host's and guest's port
	nextPort     uint32
	path         string // of the socket
}

func (s *sockets) init(mu *sync.Mutex) {
	s.room = sync.NewCond(mu)
	s.streams = map[[2]uint32]*stream{}
	s.nextPort = firstPort
}

// stream is a connection.
type stream struct {
	hostPort, guestPort uint32
	conn                *net.UnixConn
	answered            bool // by the guest
	over                bool

	peerBuffer, peerRead uint32 // what the guest can hold, and has read of what was sent
	sent                 uint32 // to the guest
	read                 uint32 // of what the guest has sent, by the one at the socket
	told                 uint32 // of that, to the guest
	buffer               []byte // what the one at the socket has not taken yet
	guestDone            bool   // the guest sends no more
}

// Listen makes the socket of the machine in a directory and serves it until the
// listener is closed.
func (d *Device) Listen(dir string) (io.Closer, error) {
	d.path = filepath.Join(dir, fmt.Sprintf("%d.sock", d.cid))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: d.path})
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go d.fromHost(conn)
		}
	}()
	return l, nil
}

// fromHost connects to the port of the guest that the first line names.
func (d *Device) fromHost(conn *net.UnixConn) {
	conn.SetReadDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // a unix socket has deadlines
	var port uint32
	line, err := lineOf(conn)
	if err == nil {
		_, err = fmt.Sscanf(line, "CONNECT %d", &port)
	}
	if err != nil {
		conn.Close()
		return
	}
	conn.SetReadDeadline(time.Time{}) //nolint:errcheck // likewise
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.rings[rxQueue].ready() {
		conn.Close() // the guest has no driver for it yet
		return
	}
	s := &stream{hostPort: d.nextPort, guestPort: port, conn: conn}
	d.nextPort++
	d.streams[[2]uint32{s.hostPort, s.guestPort}] = s
	d.send(packet{op: opRequest, stream: s})
	time.AfterFunc(connectLimit, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if !s.answered && !s.over {
			d.end(s)
			d.send(packet{op: opReset, hostPort: s.hostPort, guestPort: s.guestPort})
		}
	})
}

func lineOf(r io.Reader) (string, error) {
	var line []byte
	b := make([]byte, 1)
	for len(line) < 32 {
		if _, err := io.ReadFull(r, b); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
	return "", fmt.Errorf("a line of more than 32 bytes")
}

// send has a packet wait for a buffer of the guest's, and gives it those there are.
func (d *Device) send(p packet) {
	if p.stream != nil {
		p.hostPort, p.guestPort = p.stream.hostPort, p.stream.guestPort
	}
	d.waiting = append(d.waiting, p)
	d.waitingBytes += len(p.data)
	if err := d.flush(); err != nil {
		d.note("vsock: " + err.Error())
	}
}

// encode makes the bytes of a packet, with what is known of the stream now.
func (d *Device) encode(p packet) []byte {
	b := make([]byte, packetHeader, packetHeader+len(p.data))
	le := binary.LittleEndian
	le.PutUint64(b, hostCID)
	le.PutUint64(b[8:], d.cid)
	le.PutUint32(b[16:], p.hostPort)
	le.PutUint32(b[20:], p.guestPort)
	le.PutUint32(b[24:], uint32(len(p.data)))
	le.PutUint16(b[28:], typeStream)
	le.PutUint16(b[30:], p.op)
	le.PutUint32(b[32:], p.flags)
	le.PutUint32(b[36:], bufferSize)
	if p.stream != nil {
		le.PutUint32(b[40:], p.stream.read)
		p.stream.told = p.stream.read
	}
	return append(b, p.data...)
}

// packet takes one from the guest.
func (d *Device) packet(b []byte) {
	if len(b) < packetHeader {
		d.note(fmt.Sprintf("vsock: a packet of %d bytes", len(b)))
		return
	}
	le := binary.LittleEndian
	guestPort, hostPort := le.Uint32(b[16:]), le.Uint32(b[20:])
	size, op, flags := le.Uint32(b[24:]), le.Uint16(b[30:]), le.Uint32(b[32:])
	data := b[packetHeader:]
	if uint32(len(data)) < size || le.Uint64(b) != d.cid || le.Uint64(b[8:]) != hostCID || le.Uint16(b[28:]) != typeStream {
		d.send(packet{op: opReset, hostPort: hostPort, guestPort: guestPort})
		return
	}
	s := d.streams[[2]uint32{hostPort, guestPort}]
	if s == nil {
		if op == opRequest {
			go d.fromGuest(hostPort, guestPort, le.Uint32(b[36:]), le.Uint32(b[40:]))
		} else if op != opReset {
			d.send(packet{op: opReset, hostPort: hostPort, guestPort: guestPort})
		}
		return
	}
	s.peerBuffer, s.peerRead = le.Uint32(b[36:]), le.Uint32(b[40:])
	d.room.Broadcast()
	switch op {
	case opResponse:
		if s.answered {
			break
		}
		s.answered = true
		if _, err := fmt.Fprintf(s.conn, "OK %d\n", s.hostPort); err != nil {
			d.reset(s)
			return
		}
		d.carry(s)
	case opReset:
		s.guestDone = true
		d.forget(s)
	case opData:
		if len(s.buffer)+int(size) > bufferSize {
			d.note("vsock: the guest sends more than it may")
			d.reset(s)
			return
		}
		s.buffer = append(s.buffer, data[:size]...)
	case opShutdown:
		if flags&shutSend != 0 {
			s.guestDone = true
		}
		if flags&(shutSend|shutReceive) == shutSend|shutReceive {
			d.send(packet{op: opReset, stream: s})
			d.forget(s)
		}
	case opCreditRequest:
		d.send(packet{op: opCreditUpdate, stream: s})
	}
}

// fromGuest connects to the socket for a port that the guest wants.
func (d *Device) fromGuest(hostPort, guestPort, buffer, read uint32) {
	var dialer net.Dialer
	ctx, cancel := context.WithTimeout(context.Background(), connectLimit)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "unix", fmt.Sprintf("%s_%d", d.path, hostPort))
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.send(packet{op: opReset, hostPort: hostPort, guestPort: guestPort})
		return
	}
	s := &stream{hostPort: hostPort, guestPort: guestPort, conn: conn.(*net.UnixConn), answered: true, peerBuffer: buffer, peerRead: read}
	d.streams[[2]uint32{hostPort, guestPort}] = s
	d.send(packet{op: opResponse, stream: s})
	d.carry(s)
}

// carry begins to carry a stream's bytes in both directions.
func (d *Device) carry(s *stream) {
	go d.toGuest(s)
	go d.toSocket(s)
}

// toGuest sends what comes from the socket.
func (d *Device) toGuest(s *stream) {
	buf := make([]byte, 64<<10)
	for {
		d.mu.Lock()
		for !s.over && (d.credit(s) == 0 || d.waitingBytes >= maxWaiting) {
			d.room.Wait()
		}
		most, over := min(d.credit(s), len(buf)), s.over
		d.mu.Unlock()
		if over {
			return
		}
		n, err := s.conn.Read(buf[:most])
		d.mu.Lock()
		if n > 0 && !s.over {
			s.sent += uint32(n)
			d.send(packet{op: opData, stream: s, data: append([]byte{}, buf[:n]...)})
		}
		if err != nil && !s.over {
			// Nothing comes any more; the guest may still send.
			d.send(packet{op: opShutdown, flags: shutSend, stream: s})
		}
		d.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// credit is how many bytes the guest can take now.
func (d *Device) credit(s *stream) int { return max(int(int32(s.peerBuffer-(s.sent-s.peerRead))), 0) }

// toSocket writes what the guest has sent.
func (d *Device) toSocket(s *stream) {
	for {
		d.mu.Lock()
		for len(s.buffer) == 0 && !s.over && !s.guestDone {
			d.room.Wait()
		}
		b := s.buffer
		done := len(b) == 0
		d.mu.Unlock()
		if done {
			break
		}
		n, err := s.conn.Write(b)
		d.mu.Lock()
		s.buffer = append([]byte{}, s.buffer[n:]...)
		s.read += uint32(n)
		if err != nil {
			d.reset(s)
		} else if s.read-s.told >= bufferSize/4 && !s.over {
			d.send(packet{op: opCreditUpdate, stream: s})
		}
		d.mu.Unlock()
		if err != nil {
			return
		}
	}
	d.mu.Lock()
	over := s.over
	d.mu.Unlock()
	if over {
		s.conn.Close()
		return
	}
	_ = s.conn.CloseWrite() // or the other end is gone
	d.mu.Lock()
	for !s.over {
		d.room.Wait()
	}
	d.mu.Unlock()
	s.conn.Close()
}

// forget takes a stream away of which the guest knows no more; what it has sent
// still goes to the socket, which is closed behind it.
func (d *Device) forget(s *stream) {
	d.remove(s)
	if !s.answered {
		s.conn.Close()
		return
	}
	// A reader of the socket must not wait for what nobody takes.
	s.conn.SetReadDeadline(time.Unix(1, 0)) //nolint:errcheck // a unix socket has deadlines
}

func (d *Device) remove(s *stream) {
	s.over = true
	delete(d.streams, [2]uint32{s.hostPort, s.guestPort})
	d.room.Broadcast()
}

// end closes a stream at once.
func (d *Device) end(s *stream) {
	d.remove(s)
	s.conn.Close()
}

func (d *Device) reset(s *stream) {
	if s.over {
		return
	}
	d.end(s)
	d.send(packet{op: opReset, hostPort: s.hostPort, guestPort: s.guestPort})
}

// resetAll ends all streams: the guest's driver is gone.
func (d *Device) resetAll() {
	for _, s := range d.streams {
		d.end(s)
	}
	d.waiting, d.waitingBytes = nil, 0
}

// Remove removes the sockets' file, should it be there still.
func (d *Device) Remove() error {
	if err := os.Remove(d.path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}
