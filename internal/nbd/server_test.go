package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func be(values ...any) []byte {
	var b bytes.Buffer
	for _, v := range values {
		if err := binary.Write(&b, binary.BigEndian, v); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

var goOption = be(uint64(magicOption), uint32(optGo), uint32(6), uint32(0), uint16(0))

func ask(kind, flags uint16, off uint64, n uint32) []byte {
	return be(uint32(magicRequest), flags, kind, uint64(7), off, n)
}

// talk is a client that says everything at once.
type talk struct {
	io.Reader
	bytes.Buffer
}

func (t *talk) Read(p []byte) (int, error)  { return t.Reader.Read(p) }
func (t *talk) Write(p []byte) (int, error) { return t.Buffer.Write(p) }

func TestConversation(t *testing.T) {
	d, m := newDisk(t, 2)
	said := join(be(uint32(flagFixedNewstyle|flagNoZeroes)),
		be(uint64(magicOption), uint32(99), uint32(3)), []byte("abc"), // unknown
		be(uint64(magicOption), uint32(optGo), uint32(1)), []byte{0}, // malformed
		goOption,
		ask(commandWrite, flagFUA, 8, 4), []byte("data"),
		ask(commandRead, 0, 8, 4),
		ask(commandWrite, 0, 2*BlockSize, 1), []byte{1}, // outside
		ask(commandRead, 0, math.MaxUint64, 4), // outside
		ask(77, 0, 0, 0),
		ask(commandFlush, 0, 0, 0),
		ask(commandDisconnect, 0, 0, 0))
	c := &talk{Reader: bytes.NewReader(said)}
	if err := ServeConn(c, d); err != nil {
		t.Fatal(err)
	}
	if string(m[8:12]) != "data" {
		t.Errorf("image: %q", m[8:12])
	}
	response := func(code uint32) []byte { return be(uint32(magicResponse), code, uint64(7)) }
	want := join(be(uint64(magicHello), uint64(magicOption), uint16(3)),
		be(uint64(magicAnswer), uint32(99), uint32(answerUnsupported), uint32(0)),
		be(uint64(magicAnswer), uint32(optGo), uint32(answerInvalid), uint32(0)),
		be(uint64(magicAnswer), uint32(optGo), uint32(answerInfo), uint32(12), uint16(0), uint64(2*BlockSize), uint16(13)),
		be(uint64(magicAnswer), uint32(optGo), uint32(answerInfo), uint32(14), uint16(3), uint32(512), uint32(BlockSize), uint32(MaxPayload)),
		be(uint64(magicAnswer), uint32(optGo), uint32(answerAck), uint32(0)),
		response(0), response(0), []byte("data"), response(22), response(22), response(22), response(0))
	if got := c.Bytes(); !bytes.Equal(got, want) {
		t.Errorf("answered\n%x\nwant\n%x", got, want)
	}
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestBadClients(t *testing.T) {
	d, _ := newDisk(t, 2)
	hello := be(uint32(3))
	for name, said := range map[string][]byte{
		"option magic":   join(hello, make([]byte, 16)),
		"option length":  join(hello, be(uint64(magicOption), uint32(optGo), uint32(1<<31))),
		"request magic":  join(hello, goOption, make([]byte, requestLen)),
		"request length": join(hello, goOption, ask(commandWrite, 0, 0, MaxPayload+1)),
		"cut short":      join(hello, goOption, ask(commandWrite, 0, 0, 4), []byte("da")),
		"haggling":       join(hello, bytes.Repeat(be(uint64(magicOption), uint32(optInfo), uint32(0)), maxOptions+1)),
	} {
		if err := ServeConn(&talk{Reader: bytes.NewReader(said)}, d); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	// Leaving between messages is none.
	for _, said := range [][]byte{nil, hello, join(hello, goOption), join(hello, be(uint64(magicOption), uint32(optAbort), uint32(0)))} {
		if err := ServeConn(&talk{Reader: bytes.NewReader(said)}, d); err != nil {
			t.Errorf("a client that left: %v", err)
		}
	}
}

// QEMU's own client writes, reads, flushes and is cut off.
func TestQEMU(t *testing.T) {
	qemuIO, err := exec.LookPath("qemu-io")
	if err != nil {
		t.Skip("qemu-io is not installed (Debian: qemu-utils)")
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(8 << 20); err != nil {
		t.Fatal(err)
	}
	d, err := NewDisk(file, 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "nbd") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "nbd.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, d, func(err error) { t.Error(err) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	run := func(ok bool, commands ...string) string {
		t.Helper()
		args := []string{"--image-opts", "driver=nbd,server.type=unix,server.path=" + socket}
		for _, c := range commands {
			args = append(args, "-c", c)
		}
		out, err := exec.CommandContext(ctx, qemuIO, args...).CombinedOutput()
		if (err == nil) != ok {
			t.Fatalf("qemu-io: %v\n%s", err, out)
		}
		return string(out)
	}
	run(true, "write -P 0x61 0 1M", "flush", "write -P 0x62 3M 5000", "read -P 0x61 512 1000", "read -P 0x62 3M 5000", "read -P 0 2M 1M")
	if out := run(false, "read -P 0x63 0 512"); !strings.Contains(out, "verification failed") {
		t.Errorf("a wrong pattern was not noticed:\n%s", out)
	}
	b := make([]byte, 2)
	if _, err := file.ReadAt(b, 1<<20-2); err != nil || string(b) != "aa" {
		t.Errorf("flushed bytes: %q, %v", b, err)
	}
	if s := d.Stats(); s.Flushes == 0 || s.Writes < 2 {
		t.Errorf("stats: %+v", s)
	}
}

func FuzzServeConn(f *testing.F) {
	hello := be(uint32(3))
	f.Add(join(hello, goOption, ask(commandWrite, flagFUA, 8, 4), []byte("data"), ask(commandRead, 0, 0, 4096), ask(commandFlush, 0, 0, 0)))
	f.Add(join(hello, be(uint64(magicOption), uint32(optExportName), uint32(2)), []byte("ab"), ask(commandDisconnect, 0, 0, 0)))
	f.Add(join(hello, be(uint64(magicOption), uint32(optInfo), uint32(8), uint32(0), uint16(1), uint16(3))))
	f.Add(join(hello, goOption, ask(commandRead, 0, math.MaxUint64-1, 100)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, said []byte) {
		d, m := newDisk(t, 4)
		before := bytes.Clone(m)
		err := ServeConn(&talk{Reader: bytes.NewReader(said)}, d)
		if err != nil && !errors.Is(err, errProtocol) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			t.Errorf("error %v", err)
		}
		if d.Stats().Writes == 0 && !bytes.Equal(before, m) {
			t.Error("the image changed without a write")
		}
	})
}
