package vhostvsock

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// guest is QEMU and a guest's driver in one: memory, two rings, and the protocol.
type guest struct {
	t    *testing.T
	conn *net.UnixConn
	mem  []byte
	kick [2]int
	next [2]uint16 // of the used rings
}

const (
	memSize = 1 << 20
	ringNum = 8
	bufSize = 4096
	user    = 0x7000000000 // where QEMU has the memory
)

// Places in the memory, by queue.
func descAt(q int) int  { return q * 0x4000 }
func availAt(q int) int { return q*0x4000 + 0x1000 }
func usedAt(q int) int  { return q*0x4000 + 0x2000 }
func bufAt(q, i int) int {
	return 0x10000 + (q*ringNum+i)*bufSize
}

func (g *guest) send(request uint32, payload []byte, fds ...int) {
	g.t.Helper()
	head := binary.LittleEndian.AppendUint32(nil, request)
	head = binary.LittleEndian.AppendUint32(head, version)
	head = binary.LittleEndian.AppendUint32(head, uint32(len(payload)))
	if _, _, err := g.conn.WriteMsgUnix(append(head, payload...), unix.UnixRights(fds...), nil); err != nil {
		g.t.Fatal(err)
	}
}

func words32(v ...uint32) (b []byte) {
	for _, w := range v {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}

func words64(v ...uint64) (b []byte) {
	for _, w := range v {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

func newGuest(t *testing.T, d *Device) *guest {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := [2]*net.UnixConn{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = c.(*net.UnixConn)
	}
	served := make(chan error, 1)
	go func() { served <- d.Serve(ends[1]) }()
	g := &guest{t: t, conn: ends[0]}
	t.Cleanup(func() {
		g.conn.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err == nil {
		err = unix.Ftruncate(fd, memSize)
	}
	if err == nil {
		g.mem, err = unix.Mmap(fd, 0, memSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err != nil {
		t.Fatal(err)
	}
	g.send(setMemTable, append(words32(1, 0), words64(0, memSize, user, 0)...), fd)
	for q := range 2 {
		g.send(setVringNum, words32(uint32(q), ringNum))
		g.send(setVringAddr, append(words32(uint32(q), 0), words64(user+uint64(descAt(q)), user+uint64(usedAt(q)), user+uint64(availAt(q)), 0)...))
		g.send(setVringBase, words32(uint32(q), 0))
		if g.kick[q], err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		if q == rxQueue { // all buffers are there to be filled
			for i := range ringNum {
				g.describe(q, i, bufSize, descWrite)
				g.offer(q, uint16(i))
			}
		}
		g.send(setVringKick, words64(uint64(q)), g.kick[q])
	}
	return g
}

func (g *guest) describe(q, i, size int, flags uint16) {
	d := g.mem[descAt(q)+16*i:]
	binary.LittleEndian.PutUint64(d, uint64(bufAt(q, i)))
	binary.LittleEndian.PutUint32(d[8:], uint32(size))
	binary.LittleEndian.PutUint16(d[12:], flags)
}

func (g *guest) word(at int) *uint32 { return (*uint32)(unsafe.Pointer(&g.mem[at])) }

func (g *guest) offer(q int, head uint16) {
	idx := uint16(atomic.LoadUint32(g.word(availAt(q))) >> 16)
	binary.LittleEndian.PutUint16(g.mem[availAt(q)+4+2*int(idx%ringNum):], head)
	atomic.StoreUint32(g.word(availAt(q)), uint32(idx+1)<<16)
}

func (g *guest) kicked(q int) {
	g.t.Helper()
	if _, err := unix.Write(g.kick[q], []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		g.t.Fatal(err)
	}
}

// used waits for a buffer that the device is done with.
func (g *guest) used(q int) (head uint16, size int) {
	g.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if idx := uint16(atomic.LoadUint32(g.word(usedAt(q))) >> 16); idx != g.next[q] {
			break
		}
		if time.Now().After(end) {
			g.t.Fatal("the device does nothing")
		}
	}
	e := g.mem[usedAt(q)+4+8*int(g.next[q]%ringNum):]
	g.next[q]++
	return uint16(binary.LittleEndian.Uint32(e)), int(binary.LittleEndian.Uint32(e[4:]))
}

// transmit sends a packet of the guest's.
func (g *guest) transmit(cid uint64, hostPort, guestPort uint32, op uint16, flags uint32, data string) {
	g.t.Helper()
	b := g.mem[bufAt(txQueue, 0):][:bufSize]
	clear(b[:packetHeader])
	le := binary.LittleEndian
	le.PutUint64(b, cid)
	le.PutUint64(b[8:], hostCID)
	le.PutUint32(b[16:], guestPort)
	le.PutUint32(b[20:], hostPort)
	le.PutUint32(b[24:], uint32(len(data)))
	le.PutUint16(b[28:], typeStream)
	le.PutUint16(b[30:], op)
	le.PutUint32(b[32:], flags)
	le.PutUint32(b[36:], 1<<16)
	copy(b[packetHeader:], data)
	g.describe(txQueue, 0, packetHeader+len(data), 0)
	g.offer(txQueue, 0)
	g.kicked(txQueue)
	g.used(txQueue)
}

type got struct {
	hostPort, guestPort uint32
	op                  uint16
	data                string
}

// receive takes the next packet for the guest.
func (g *guest) receive() got {
	g.t.Helper()
	head, size := g.used(rxQueue)
	b := g.mem[bufAt(rxQueue, int(head)):][:size]
	le := binary.LittleEndian
	p := got{le.Uint32(b[16:]), le.Uint32(b[20:]), le.Uint16(b[30:]), string(b[packetHeader:])}
	g.offer(rxQueue, head)
	g.kicked(rxQueue)
	return p
}

// TestDevice has a guest's driver take a connection from the host, carry it in both
// directions, and refuse another.
func TestDevice(t *testing.T) {
	dir, err := os.MkdirTemp("", "vsock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := New(70000, func(text string) { t.Error(text) })
	l, err := d.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	connect := func(port int) net.Conn {
		t.Helper()
		c, err := net.Dial("unix", dir+"/70000.sock")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := fmt.Fprintf(c, "CONNECT %d\n", port); err != nil {
			t.Fatal(err)
		}
		return c
	}
	early := connect(1024)
	if n, err := early.Read(make([]byte, 8)); err == nil {
		t.Errorf("before there is a driver: %d bytes", n)
	}

	g := newGuest(t, d)
	// The rings are served once all was said; the answer to a question tells.
	g.send(getFeatures, nil)
	if _, err := io.ReadFull(g.conn, make([]byte, headerSize+8)); err != nil {
		t.Fatal(err)
	}
	c := connect(1024)
	p := g.receive()
	if p.op != opRequest || p.guestPort != 1024 {
		t.Fatalf("%+v", p)
	}
	g.transmit(70000, p.hostPort, 1024, opResponse, 0, "")
	line := make([]byte, len(fmt.Sprintf("OK %d\n", p.hostPort)))
	if _, err := io.ReadFull(c, line); err != nil || string(line) != fmt.Sprintf("OK %d\n", p.hostPort) {
		t.Fatalf("%q, %v", line, err)
	}
	g.transmit(70000, p.hostPort, 1024, opData, 0, "from the guest")
	b := make([]byte, 14)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "from the guest" {
		t.Errorf("%q, %v", b, err)
	}
	// More than a buffer of the guest's comes in parts.
	text := make([]byte, 10000)
	for i := range text {
		text[i] = byte(i)
	}
	if _, err := c.Write(text); err != nil {
		t.Fatal(err)
	}
	all := ""
	for len(all) < len(text) {
		if p := g.receive(); p.op == opData {
			all += p.data
		}
	}
	if all != string(text) {
		t.Error("what came is not what was sent")
	}
	g.transmit(70000, p.hostPort, 1024, opShutdown, shutSend|shutReceive, "")
	if n, err := c.Read(b); err != io.EOF {
		t.Errorf("after the guest's end: %d, %v", n, err)
	}
	if p := g.receive(); p.op != opReset {
		t.Errorf("%+v", p)
	}

	refused := connect(22)
	p = g.receive()
	g.transmit(70000, p.hostPort, 22, opReset, 0, "")
	if n, err := refused.Read(b); err == nil {
		t.Errorf("a port that nobody listens at: %d bytes", n)
	}
	// What is said in another's name is answered by a reset.
	g.transmit(5, 9, 1024, opData, 0, "x")
	if p := g.receive(); p.op != opReset || p.hostPort != 9 {
		t.Errorf("%+v", p)
	}
}
