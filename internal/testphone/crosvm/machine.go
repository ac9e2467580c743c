package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/nbd"
	"github.com/sovereign-build/sovereign/internal/testphone/composite"
	"github.com/sovereign-build/sovereign/internal/testphone/vhostvsock"
)

// inherited are the descriptors that this program was given, which QEMU gets too:
// a lock among them lasts as long as QEMU does.
func inherited() (list []*os.File, err error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd < 3 {
			continue
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC != 0 {
			continue // this program's own, or gone
		}
		dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return nil, err
		}
		unix.CloseOnExec(fd)
		list = append(list, os.NewFile(uintptr(dup), "inherited"))
	}
	return list, nil
}

// machine is a guest that runs under QEMU.
type machine struct {
	c     config
	s     settings
	arch  string
	disks []disk

	listener *net.UnixListener // of the control socket, served while the machine runs; nil: none

	qmp    *json.Encoder
	mu     sync.Mutex // of what follows
	calls  map[int]chan answer
	lastID int
	exit   int // what the guest did last, or crosvm was told
}

type answer struct {
	Return json.RawMessage
	Error  *struct{ Desc string }
}

// runMachine checks the world, starts the machine and waits for its end.
func runMachine(s settings, c config, v values, stderr io.Writer) (status int, err error) {
	given, err := inherited()
	if err != nil {
		return 0, err
	}
	m := &machine{c: c, s: s, arch: s.Arch, calls: map[int]chan answer{}}
	if err := checkWorld(s, c, v); err != nil {
		return 0, err
	}
	line, err := c.cmdline(m.arch)
	if err != nil {
		return 0, err
	}
	if c.socket != "" {
		path := c.socket
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			path = filepath.Join(path, fmt.Sprintf("crosvm-%d.sock", os.Getpid()))
		}
		l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: path})
		if err != nil {
			return 0, fmt.Errorf("failed to create control server: %w", err)
		}
		// As crosvm does: a clean end unlinks it, a signal leaves it.
		defer l.Close()
		m.listener = l
	}
	defer func() {
		for _, d := range m.disks {
			d.file.Close()
		}
	}()
	for _, b := range c.blocks {
		d, err := openDisk(b)
		if d.file != nil {
			m.disks = append(m.disks, d)
		}
		if err != nil {
			return 0, err
		}
	}
	if s.Dry {
		fmt.Fprintln(stderr, "[INFO:crosvm] vcpu requested reset")
		return exitReset, nil
	}
	return m.boot(line, given, stderr)
}

// boot starts QEMU and waits for its end.
func (m *machine) boot(line string, given []*os.File, stderr io.Writer) (status int, err error) {
	q := qemu{arch: m.arch, c: m.c, line: line}
	control, qmpEnd, err := socketPair("qmp")
	if err != nil {
		return 0, err
	}
	defer control.Close()
	q.qmpFD = q.file(qmpEnd)
	if m.c.cid != 0 {
		vsock, end, err := socketPair("vsock")
		if err != nil {
			return 0, err
		}
		device, close, err := m.listenVsock(stderr)
		if err != nil {
			return 0, err
		}
		defer close()
		q.vsockFD = q.file(end)
		go func() {
			if err := device.Serve(vsock); err != nil {
				fmt.Fprintln(stderr, "[ERROR:crosvm]", err)
			}
		}()
	}
	kernel, err := openFile(m.c.kernel, true)
	if err != nil {
		return 0, err
	}
	q.kernelFD = q.file(kernel)
	if m.c.initrd != "" {
		initrd, err := openFile(m.c.initrd, true)
		if err != nil {
			return 0, err
		}
		q.initrdFD = q.file(initrd)
	}
	for n, d := range m.disks {
		if d.parts == nil {
			q.disks = append(q.disks, place{fd: q.file(d.file)})
			continue
		}
		socket, close, err := serveParts(n, d.parts, stderr)
		if err != nil {
			return 0, err
		}
		defer close()
		q.disks = append(q.disks, place{socket: socket})
	}
	args, err := q.arguments()
	if err != nil {
		return 0, err
	}
	program := "qemu-system-x86_64"
	if m.arch == "arm64" {
		program = "qemu-system-aarch64"
	}
	cmd := exec.Command(program, args...)
	cmd.ExtraFiles = append(q.files, given...)
	var words bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(stderr, &words), io.MultiWriter(stderr, &words)
	// A kill of this program is one of the machine.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	qmpEnd.Close()
	events := make(chan error, 1)
	go func() { events <- m.readQMP(control) }()
	err = cmd.Wait()
	control.Close()
	<-events
	if err != nil {
		return 0, fmt.Errorf("QEMU: %w: %s", err, words.String())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.exit, nil
}

// serveParts has QEMU reach a composite disk by NBD, which knows no such format.
func serveParts(n int, image *composite.Image, stderr io.Writer) (socket string, close func(), err error) {
	dir, err := os.MkdirTemp("", fmt.Sprintf("crosvm-disk%d-", n))
	if err != nil {
		return "", nil, err
	}
	socket = filepath.Join(dir, "nbd")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if err := nbd.ServeConn(conn, image); err != nil {
			fmt.Fprintln(stderr, "[ERROR:crosvm]", err)
		}
	}()
	return socket, func() { l.Close(); os.RemoveAll(dir) }, nil
}

// resetAfter is how soon a guest with too many CPUs is reset: no kernel under TCG
// has printed anything by then.
const resetAfter = 100 * time.Millisecond

func socketPair(name string) (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fds[0]), name)
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, nil, err
	}
	return conn.(*net.UnixConn), os.NewFile(uintptr(fds[1]), name), nil
}

// listenVsock takes the machine's number, as the kernel's vhost-vsock does.
func (m *machine) listenVsock(stderr io.Writer) (d *vhostvsock.Device, close func(), err error) {
	if m.c.cid < 3 {
		return nil, nil, errors.New("failed to set up virtual socket device: failed to set CID for guest: Invalid argument (os error 22)")
	}
	if m.s.VsockDir == "" {
		return nil, nil, errors.New("failed to open /dev/vhost-vsock: No such file or directory (os error 2)")
	}
	path := filepath.Join(m.s.VsockDir, strconv.FormatUint(m.c.cid, 10))
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, nil, errors.New("failed to set up virtual socket device: failed to set CID for guest: Address in use (os error 98)")
	}
	// Of a machine that was killed.
	if err := os.Remove(path + ".sock"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	d = vhostvsock.New(m.c.cid, func(text string) { fmt.Fprintln(stderr, "[WARN:crosvm]", text) })
	l, err := d.Listen(m.s.VsockDir)
	if err != nil {
		return nil, nil, err
	}
	return d, func() { l.Close(); lock.Close() }, nil
}

// readQMP reads what QEMU says until it ends.
func (m *machine) readQMP(conn *net.UnixConn) error {
	m.mu.Lock()
	m.qmp = json.NewEncoder(conn)
	m.mu.Unlock()
	r := bufio.NewReader(conn)
	for {
		text, err := r.ReadBytes('\n')
		if err != nil {
			return err
		}
		var msg struct {
			QMP   json.RawMessage
			ID    int
			Event string
			Data  struct{ Reason string }
			answer
		}
		if err := json.Unmarshal(text, &msg); err != nil {
			return err
		}
		m.mu.Lock()
		switch {
		case msg.QMP != nil:
			if err = m.qmp.Encode(map[string]any{"execute": "qmp_capabilities"}); m.listener != nil {
				go m.serveControl(m.listener)
			}
			if m.s.MaxCPUs > 0 && m.c.cpus > m.s.MaxCPUs {
				time.AfterFunc(resetAfter, func() {
					m.mu.Lock()
					m.exit = exitReset
					m.mu.Unlock()
					_ = m.execute(context.Background(), "quit", nil, nil) // it is over then
				})
			}
		case msg.Event == "SHUTDOWN":
			switch msg.Data.Reason {
			case "guest-reset":
				m.exit = exitReset
			case "guest-panic":
				m.exit = exitPanic
			}
		case msg.Event == "GUEST_PANICKED":
			m.exit = exitPanic
		case msg.ID != 0:
			if c := m.calls[msg.ID]; c != nil {
				delete(m.calls, msg.ID)
				c <- msg.answer
			}
		}
		m.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// execute runs one of QEMU's commands.
func (m *machine) execute(ctx context.Context, command string, args any, result any) error {
	m.mu.Lock()
	if m.qmp == nil {
		m.mu.Unlock()
		return errors.New("the machine is not up yet")
	}
	m.lastID++
	c := make(chan answer, 1)
	m.calls[m.lastID] = c
	request := map[string]any{"execute": command, "id": m.lastID}
	if args != nil {
		request["arguments"] = args
	}
	err := m.qmp.Encode(request)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(10 * time.Second):
		return errors.New("QEMU does not answer")
	case a := <-c:
		if a.Error != nil {
			return errors.New(a.Error.Desc)
		}
		if result == nil {
			return nil
		}
		return json.Unmarshal(a.Return, result)
	}
}

// qemu is the command line of the machine under it.
type qemu struct {
	arch                               string
	c                                  config
	line                               string
	files                              []*os.File
	qmpFD, vsockFD, kernelFD, initrdFD int
	disks                              []place
}

// place is where a disk is: a descriptor, or a socket that serves it by NBD.
type place struct {
	fd     int
	socket string
}

// file has QEMU have a file, and returns its descriptor there.
func (q *qemu) file(f *os.File) int {
	q.files = append(q.files, f)
	return 2 + len(q.files)
}

func (q *qemu) arguments() ([]string, error) {
	fd := func(n int) string { return fmt.Sprintf("/proc/self/fd/%d", n) }
	mem := fmt.Sprintf("%dM", q.c.memMiB)
	virtio := "disable-legacy=on"
	board, cpu := "q35,usb=off,vmport=off,smbus=off,sata=off", "max,la57=off,erms=off"
	line := "no_timer_check initcall_blacklist=sha256_ssse3_mod_init,init_acpi_pm_clocksource lpj=20000000 tsc=reliable " + q.line
	if q.arch == "arm64" {
		// Without an ITS there are no message-signalled interrupts: virtio is on
		// INTx, as under crosvm of Android 16. The serial port is another.
		board, cpu = "virt,gic-version=3,its=off", "cortex-a76"
		line = strings.ReplaceAll(q.line, "console=ttyS0", "console=ttyAMA0")
	}
	if q.c.protected {
		virtio += ",iommu_platform=on"
		line += fmt.Sprintf(" swiotlb=%d,force", q.c.swiotlbMiB<<20/2048-128)
	}
	args := []string{"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-name", "guest=" + strings.ReplaceAll(q.c.name, ",", ",,"),
		"-machine", board + ",dump-guest-core=off,memory-backend=mem", "-accel", "tcg,thread=multi,tb-size=256", "-cpu", cpu,
		"-object", "memory-backend-memfd,id=mem,share=on,size=" + mem, "-m", mem, "-smp", strconv.Itoa(q.c.cpus),
		"-kernel", fd(q.kernelFD), "-append", line,
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", q.qmpFD), "-mon", "chardev=qmp,mode=control",
		"-device", "pvpanic-pci"}
	if q.initrdFD != 0 {
		args = append(args, "-initrd", fd(q.initrdFD))
	}
	serial, err := q.serial()
	if err != nil {
		return nil, err
	}
	args = append(args, serial...)
	if q.vsockFD != 0 {
		args = append(args, "-chardev", fmt.Sprintf("socket,id=vsock,fd=%d", q.vsockFD),
			"-device", "vhost-user-vsock-pci,chardev=vsock,"+virtio)
	}
	if !q.c.noBalloon {
		reporting := "off"
		if q.c.reporting {
			reporting = "on"
		}
		args = append(args, "-device", "virtio-balloon-pci,deflate-on-oom=on,free-page-reporting="+reporting+",disable-legacy=on")
	}
	// crosvm has no such device where the host cannot read the guest's memory.
	if !q.c.noRNG && !q.c.protected {
		args = append(args, "-object", "rng-builtin,id=rng0", "-device", "virtio-rng-pci,rng=rng0,"+virtio)
	}
	for n, b := range q.c.blocks {
		id := fmt.Sprintf("disk%d", n)
		file := fmt.Sprintf("driver=file,node-name=%s-file,filename=%s,locking=off,aio=threads,cache.no-flush=off", id, fd(q.disks[n].fd))
		if socket := q.disks[n].socket; socket != "" {
			file = fmt.Sprintf("driver=nbd,node-name=%s-file,server.type=unix,server.path=%s", id, socket)
		}
		raw := fmt.Sprintf("driver=raw,node-name=%s,file=%[1]s-file", id)
		// What the host cannot write is an I/O error of the guest, never a pause.
		device := fmt.Sprintf("virtio-blk-pci,drive=%s,%s,werror=report,rerror=report", id, virtio)
		if b.id != "" {
			device += ",serial=" + strings.ReplaceAll(b.id, ",", ",,")
		}
		switch {
		case b.ro:
			file, raw = file+",read-only=on", raw+",read-only=on"
		case b.sparse && q.disks[n].socket == "":
			file, raw = file+",discard=unmap", raw+",discard=unmap"
		default:
			device += ",discard=off"
		}
		args = append(args, "-blockdev", file, "-blockdev", raw, "-device", device)
	}
	return args, nil
}

// serial are the serial ports, 1 to 4; one that is not declared is the default
// console of standard input and output if it is the first.
func (q *qemu) serial() (args []string, err error) {
	declared := map[int]serial{}
	for _, s := range q.c.serials {
		switch {
		case s.hardware == "serial":
			declared[s.num] = s
		case s.hardware == "virtio-console" && !s.console && s.input == "":
			// As if nobody read there: what the service gives every machine, beside the
			// serial port with the same output.
		default:
			return nil, fmt.Errorf("the stand-in has no %s", s.hardware)
		}
	}
	if _, ok := declared[1]; !ok {
		declared[1] = serial{kind: "stdout"}
	}
	for n := 1; n <= 4; n++ {
		s, ok := declared[n]
		if !ok {
			continue
		}
		id := fmt.Sprintf("serial%d", n)
		path := strings.ReplaceAll(s.path, ",", ",,")
		if strings.HasPrefix(s.path, "/proc/self/fd/") && s.kind == "file" {
			f, err := openFile(s.path, true)
			if err != nil {
				return nil, err
			}
			path = fmt.Sprintf("/proc/self/fd/%d", q.file(f))
		}
		switch s.kind {
		case "file":
			// Opened once, to be appended to.
			args = append(args, "-chardev", "file,id="+id+",append=on,path="+path)
		case "unix-stream":
			args = append(args, "-chardev", "socket,id="+id+",server=off,path="+path)
		case "stdout":
			args = append(args, "-chardev", "stdio,id="+id)
		default:
			args = append(args, "-chardev", "null,id="+id)
		}
		args = append(args, "-serial", "chardev:"+id)
	}
	return args, nil
}
