// Package testphone is a phone for tests, as far as adb, root and the ends of
// processes go: the real adbd of Debian in namespaces and a root directory of
// its own, with a cgroup hierarchy in which init kills adbd's cgroup, reboots
// that run the root manager's scripts, and stand-ins at Android's paths for the
// programs that Sovereign asks (package box). It takes root, and a kernel with
// namespaces and cgroup v2.
//
// It is reached at a loopback port; /data is a directory that outlives reboots.
// Nothing of the product imports it.
package testphone

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/testphone/box"
)

// Options say what phone it is.
type Options struct {
	Dir  string // of /data and the rest; made where it is not there
	Box  string // the program cmd/testphone
	ADBD string // directory of scripts/adbd.sh
	// Config's zero values are those of a Pixel with Android 16.
	Config box.Config
	// Programs are files to be put into the phone, by their path there.
	Programs map[string]string
	// Log takes what init says; nil throws it away.
	Log io.Writer
	// Port is that of loopback at which adbd is reached; 0 is any.
	Port int
}

// Defaults are of a rooted phone of these years.
func Defaults() box.Config {
	return box.Config{
		Model: "Test Phone 9", Release: "16", SDK: 36, Su: "magisk", Hypervisor: true, Protected: true,
		Fingerprint: "sovereign/testphone/testphone:16/TEST/1:user/release-keys", Arch: runtime.GOARCH, ADBPort: 5555,
	}
}

// Phone is a phone that is on, or rebooting.
type Phone struct {
	o      Options
	listen net.Listener
	group  string // its cgroup here

	mu       sync.Mutex
	cmd      *exec.Cmd
	boots    int
	off      bool // it shall not boot again
	limit    int64
	passed   int64
	carrying map[net.Conn]bool

	ended chan struct{}
	err   error
}

// Start switches a phone on. It returns when its adbd can be reached.
func Start(o Options) (_ *Phone, err error) {
	if os.Getuid() != 0 {
		return nil, errors.New("a test phone takes root: its namespaces, mounts and cgroups are root's")
	}
	for _, d := range []string{"data", "root"} {
		if err := os.MkdirAll(filepath.Join(o.Dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	for _, p := range []*string{&o.Dir, &o.Box, &o.ADBD} {
		if *p, err = filepath.Abs(*p); err != nil {
			return nil, err
		}
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	unified, err := cgroup2()
	if err != nil {
		return nil, err
	}
	p := &Phone{o: o, carrying: map[net.Conn]bool{}, ended: make(chan struct{})}
	if p.group, err = os.MkdirTemp(unified, "sovereign-testphone-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if p.listen, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", o.Port)); err != nil {
		close(p.ended)
		return nil, err
	}
	if err := p.boot(); err != nil {
		close(p.ended)
		return nil, err
	}
	go p.accept()
	go p.keep()
	return p, p.WaitADBD()
}

// cgroup2 is where the hierarchy of version 2 is mounted.
func cgroup2() (string, error) {
	text, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1], nil
		}
	}
	return "", errors.New("no cgroup v2 is mounted here")
}

// boot starts init in new namespaces.
func (p *Phone) boot() error {
	tree, err := json.Marshal(box.Tree{
		Config: p.o.Config, Box: p.o.Box, Data: filepath.Join(p.o.Dir, "data"), ADBD: p.o.ADBD,
		Root: filepath.Join(p.o.Dir, "root"), Programs: p.o.Programs,
	})
	if err != nil {
		return err
	}
	group, err := os.Open(p.group)
	if err != nil {
		return err
	}
	defer group.Close()
	cmd := exec.Command(p.o.Box, "build", string(tree))
	cmd.Args[0] = "phone-init"
	cmd.Stdout, cmd.Stderr = p.o.Log, p.o.Log
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		UseCgroupFD: true, CgroupFD: int(group.Fd()), Setsid: true, Pdeathsig: syscall.SIGKILL,
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off {
		return errors.New("the phone is off")
	}
	// Pdeathsig is about the thread that starts it.
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		close(started)
		<-p.ended // and the thread ends with this function
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("the phone's init: %w", err)
	}
	p.cmd = cmd
	p.boots++
	return nil
}

// keep boots it again after a reboot.
func (p *Phone) keep() {
	defer close(p.ended)
	for {
		p.mu.Lock()
		cmd := p.cmd
		p.mu.Unlock()
		err := cmd.Wait()
		p.cut() // its connections are of the former boot
		if code := cmd.ProcessState.ExitCode(); code == box.ExitPowerOff || code != box.ExitReboot && code != -1 {
			if code != box.ExitPowerOff {
				p.err = fmt.Errorf("the phone's init ended: %w", err)
			}
			return
		}
		if err := p.boot(); err != nil {
			p.mu.Lock()
			if !p.off {
				p.err = err
			}
			p.mu.Unlock()
			return
		}
	}
}

// Address is where adbd is reached, HOST:PORT; adb has it as serial number, once
// it is connected to.
func (p *Phone) Address() string { return p.listen.Addr().String() }

// Boots is how often it has booted.
func (p *Phone) Boots() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.boots
}

// PID is that of its init, here.
func (p *Phone) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.Process.Pid
}

// Root is its root directory, seen from here.
func (p *Phone) Root() string { return fmt.Sprintf("/proc/%d/root", p.PID()) }

// Data is its /data, seen from here.
func (p *Phone) Data() string { return filepath.Join(p.o.Dir, "data") }

// SetProp sets a property, as root. "sys.usb.config" none has init kill adbd's
// cgroup, and adb has it come back; "sys.powerctl" reboots.
func (p *Phone) SetProp(name, value string) error { return box.SetProp(p.Root(), name, value) }

// GetProp reads a property.
func (p *Phone) GetProp(name string) (string, error) { return box.GetProp(p.Root(), name) }

// WriteFile writes a file of the running phone, such as one of /sys.
func (p *Phone) WriteFile(path, text string) error {
	return os.WriteFile(p.Root()+path, []byte(text), 0o644)
}

// ReadFile reads one.
func (p *Phone) ReadFile(path string) (string, error) {
	b, err := os.ReadFile(p.Root() + path)
	return string(b), err
}

// ReplugUSB is what a change of the USB function does: init ends adbd and all
// that is in its cgroup, and starts it again.
func (p *Phone) ReplugUSB() error {
	return errors.Join(p.SetProp("sys.usb.config", "none"), p.SetProp("sys.usb.config", "adb"))
}

// Reboot reboots in order, and returns when adbd is there again.
func (p *Phone) Reboot() error {
	before := p.Boots()
	if err := p.SetProp("sys.powerctl", "reboot,"); err != nil {
		return err
	}
	return p.waitBoot(before, time.Duration(p.o.Config.ShutdownSeconds)*time.Second)
}

// PullBattery ends everything at once, and boots.
func (p *Phone) PullBattery() error {
	before := p.Boots()
	p.mu.Lock()
	err := p.cmd.Process.Kill()
	p.mu.Unlock()
	if err != nil {
		return err
	}
	return p.waitBoot(before, 0)
}

func (p *Phone) waitBoot(before int, more time.Duration) error {
	if err := p.wait("its next boot", 30*time.Second+more, func() bool { return p.Boots() > before }); err != nil {
		return err
	}
	return p.WaitADBD()
}

// WaitADBD waits until adbd can be reached.
func (p *Phone) WaitADBD() error {
	return p.wait("its adbd", 15*time.Second, func() bool {
		conn, err := p.dial()
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// WaitProp waits until a property has a value.
func (p *Phone) WaitProp(name, value string) error {
	return p.wait(name+"="+value, 30*time.Second, func() bool {
		v, err := p.GetProp(name)
		return err == nil && v == value
	})
}

func (p *Phone) wait(what string, limit time.Duration, is func() bool) error {
	for end := time.Now().Add(limit); !is(); time.Sleep(20 * time.Millisecond) {
		select {
		case <-p.ended:
			return errors.Join(fmt.Errorf("the phone is off, waiting for %s", what), p.err)
		default:
		}
		if time.Now().After(end) {
			return fmt.Errorf("waiting for %s of the phone", what)
		}
	}
	return nil
}

// Done is closed when it is off for good.
func (p *Phone) Done() <-chan struct{} { return p.ended }

// Err is why it ended by itself.
func (p *Phone) Err() error {
	<-p.ended
	return p.err
}

// Close switches it off at once and takes away what is left of it but Dir.
func (p *Phone) Close() error {
	p.mu.Lock()
	p.off = true
	if p.cmd != nil {
		p.cmd.Process.Kill() //nolint:errcheck // it may have ended
	}
	p.mu.Unlock()
	if p.listen != nil {
		p.listen.Close()
		<-p.ended
	}
	p.cut()
	return removeGroups(p.group)
}

// removeGroups removes a cgroup and those below it, once they are empty.
func removeGroups(dir string) error {
	for limit := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var dirs []string
		filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error { //nolint:errcheck // what is left says so below
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			syscall.Rmdir(dirs[i]) //nolint:errcheck // as above
		}
		_, err := os.Stat(dir)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if time.Now().After(limit) {
			return fmt.Errorf("the cgroup %s is not empty", dir)
		}
	}
}
