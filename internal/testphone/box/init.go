package box

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const shellUID = 2000

// Exit codes of the phone's init, for whoever has started it.
const (
	ExitReboot   = 10
	ExitPowerOff = 11
)

// The times of a phone, shorter where only waiting would be proven.
const (
	apexAfter      = 300 * time.Millisecond // from the root manager's scripts
	completedAfter = 1200 * time.Millisecond
	syncAfter      = 2 * time.Second // 3 to 4 minutes after it is unlocked, really
	adbdAfter      = 200 * time.Millisecond
	// shutdownTimeout is ro.build.shutdown_timeout's default (init/reboot.cpp).
	shutdownTimeout = 6 * time.Second
)

// Tree is what init makes the phone's root of.
type Tree struct {
	Config Config
	Box    string // the program that this is
	Data   string // directory of /data
	ADBD   string // directory that scripts/adbd.sh has made
	Root   string // an empty directory
	// Programs are files to be put into the phone, by their path there.
	Programs map[string]string
}

// initMain has two stages: the first makes the mounts, and becomes the second
// in the phone's own root. Its cgroup namespace is the thread's alone until
// then.
func initMain(args []string) int {
	runtime.LockOSThread()
	var err error
	switch {
	case len(args) == 2 && args[0] == "build":
		err = build(args[1])
	case len(args) == 1 && args[0] == "boot":
		var code int
		if code, err = boot(); err == nil {
			return code
		}
	default:
		err = errors.New("phone-init is started by the test phone")
	}
	fmt.Fprintf(os.Stderr, "phone-init: %v\n", err)
	return 1
}

// build makes the phone's root and goes there.
func build(text string) error {
	var t Tree
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("a cgroup namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	r := t.Root
	steps := []func() error{
		func() error { return unix.Mount("none", r, "tmpfs", 0, "mode=755") },
		func() error {
			return mkdirs(r, "system/bin", "system/etc", "apex/com.android.adbd", "apex/com.android.virt/bin", "data", "dev", "proc", "sys", "usr", "etc", "tmp", "run", "root", "mnt/old", "debug_ramdisk")
		},
		func() error { return unix.Mount("/usr", r+"/usr", "", unix.MS_BIND, "") },
		func() error { return unix.Mount(t.ADBD, r+"/apex/com.android.adbd", "", unix.MS_BIND, "") },
		func() error { return unix.Mount(t.Data, r+"/data", "", unix.MS_BIND, "") },
		func() error { return unix.Mount("proc", r+"/proc", "proc", 0, "") },
		func() error { return mountBootID(r) },
		func() error { return makeDev(r) },
		func() error { return makeSys(r) },
		func() error { return makeSystem(r, t) },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d of the phone's root: %w", i, err)
		}
	}
	if err := unix.PivotRoot(r, r+"/mnt/old"); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Unmount("/mnt/old", unix.MNT_DETACH); err != nil {
		return err
	}
	return syscall.Exec("/system/bin/box", []string{"phone-init", "boot"}, []string{"PATH=/system/bin", "HOME=/", "ANDROID_ROOT=/system", "ANDROID_DATA=/data"})
}

func mkdirs(root string, names ...string) error {
	for _, name := range names {
		if err := os.MkdirAll(filepath.Join(root, name), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// mountBootID gives each boot an id of its own: the kernel's is that of the
// computer.
func mountBootID(r string) error {
	f, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		return err
	}
	if err := os.WriteFile(r+"/run/boot_id", f, 0o444); err != nil {
		return err
	}
	return unix.Mount(r+"/run/boot_id", r+"/proc/sys/kernel/random/boot_id", "", unix.MS_BIND, "")
}

func makeDev(r string) error {
	if err := unix.Mount("none", r+"/dev", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	if err := mkdirs(r, "dev/pts", "dev/net", "dev/socket", "dev/shm"); err != nil {
		return err
	}
	unix.Umask(0)
	for _, n := range []struct {
		name         string
		major, minor uint32
	}{
		{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
		{"kvm", 10, 232}, {"tun", 10, 200}, {"net/tun", 10, 200}, {"vhost-vsock", 10, 241}, {"vsock", 10, 258},
	} {
		if strings.Contains(n.name, "vsock") { // numbers differ, and it may not be there
			var st unix.Stat_t
			if unix.Stat("/dev/"+n.name, &st) != nil {
				continue
			}
			n.major, n.minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
		}
		if err := unix.Mknod(r+"/dev/"+n.name, unix.S_IFCHR|0o666, int(unix.Mkdev(n.major, n.minor))); err != nil {
			return fmt.Errorf("/dev/%s: %w", n.name, err)
		}
	}
	unix.Umask(0o022)
	if err := unix.Mount("devpts", r+"/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=620"); err != nil {
		return err
	}
	if err := unix.Mount("none", r+"/dev/shm", "tmpfs", 0, "mode=1777"); err != nil {
		return err
	}
	return errors.Join(os.Symlink("pts/ptmx", r+"/dev/ptmx"), os.Symlink("/proc/self/fd", r+"/dev/fd"))
}

func makeSys(r string) error {
	if err := unix.Mount("none", r+"/sys", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	if err := mkdirs(r, "sys/fs/cgroup", "sys/power", "sys/class/power_supply/battery", "sys/class/thermal/thermal_zone0", "sys/class/thermal/thermal_zone1"); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"power/wake_lock": "", "power/wake_unlock": "",
		"class/power_supply/battery/capacity": "80\n", "class/power_supply/battery/status": "Discharging\n",
		"class/power_supply/battery/temp": "271\n", "class/power_supply/battery/health": "Good\n",
		"class/thermal/thermal_zone0/type": "cpu-0-0\n", "class/thermal/thermal_zone0/temp": "41000\n",
		"class/thermal/thermal_zone1/type": "skin\n", "class/thermal/thermal_zone1/temp": "33000\n",
	} {
		if err := os.WriteFile(r+"/sys/"+name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return unix.Mount("cgroup2", r+"/sys/fs/cgroup", "cgroup2", 0, "")
}

func makeSystem(r string, t Tree) error {
	box, err := os.ReadFile(t.Box)
	if err != nil {
		return err
	}
	if err := os.WriteFile(r+"/system/bin/box", box, 0o755); err != nil {
		return err
	}
	busybox, err := os.ReadFile(t.ADBD + "/usr/bin/busybox")
	if err != nil {
		return err
	}
	if err := os.WriteFile(r+"/system/bin/busybox", busybox, 0o755); err != nil {
		return err
	}
	// Android's sh; busybox's would take its own programs before those of PATH.
	mksh, err := os.ReadFile(t.ADBD + "/usr/bin/mksh-static")
	if err != nil {
		return err
	}
	if err := os.WriteFile(r+"/system/bin/sh", mksh, 0o755); err != nil {
		return err
	}
	// What toybox has on a phone, of busybox's.
	for _, name := range strings.Fields("basename cat chmod chown cksum cmp cp cut date dd df dirname du echo env expr false find free grep head hostname id kill killall ln ls md5sum mkdir mknod mktemp more mount mv nice nohup od pgrep pidof pkill printf ps pwd readlink realpath rm rmdir sed seq setsid sha1sum sha256sum sleep sort split stat strings sync tail tar tee time timeout top touch tr true truncate tty ulimit umount uname uniq uptime wc which whoami xargs xxd yes") {
		if err := os.Symlink("busybox", r+"/system/bin/"+name); err != nil {
			return err
		}
	}
	// Of this computer's programs a phone sees the hypervisors that are there.
	qemus, err := filepath.Glob("/usr/bin/qemu-system-*")
	if err != nil {
		return err
	}
	for _, q := range qemus {
		if err := os.Symlink(q, r+"/system/bin/"+filepath.Base(q)); err != nil {
			return err
		}
	}
	for _, name := range Names() {
		switch {
		case name == "su", name == "adbd-launch",
			name == "magisk" && t.Config.Su != "magisk", name == "ksud" && t.Config.Su != "kernelsu":
			continue
		}
		if err := os.Symlink("box", r+"/system/bin/"+name); err != nil {
			return err
		}
	}
	if t.Config.Su != "" && t.Config.Su != "adbd" {
		if err := os.WriteFile(r+"/system/bin/su", box, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(r+"/system/bin/su", 0o755|os.ModeSetuid); err != nil {
			return err
		}
	}
	for to, from := range t.Programs {
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(r+to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(r+to, content, 0o755); err != nil {
			return err
		}
	}
	config, err := json.Marshal(t.Config)
	if err != nil {
		return err
	}
	cache, err := os.ReadFile("/etc/ld.so.cache")
	if err != nil {
		cache = nil // the loader looks in its own directories then
	}
	return errors.Join(
		os.WriteFile(r+ConfigFile, config, 0o644),
		os.WriteFile(r+"/etc/passwd", []byte("root:x:0:0::/:/system/bin/sh\nshell:x:2000:2000::/data/local/tmp:/system/bin/sh\n"), 0o644),
		os.WriteFile(r+"/etc/group", []byte("root:x:0:\nshell:x:2000:\n"), 0o644),
		os.WriteFile(r+"/etc/ld.so.cache", cache, 0o644),
		os.Symlink("system/bin", r+"/bin"), os.Symlink("usr/lib", r+"/lib"), os.Symlink("usr/lib64", r+"/lib64"),
		os.Chmod(r+"/tmp", 0o1777),
		mkdata(r+"/data"),
	)
}

// mkdata makes the directories of /data with their rights; what is there stays.
func mkdata(data string) error {
	for _, d := range []struct {
		name string
		mode os.FileMode
		uid  int
	}{
		{"local", 0o751, 0}, {"local/tmp", 0o771, shellUID}, {"adb", 0o700, 0}, {"system", 0o777, 0}, {"property", 0o700, 0},
	} {
		path := filepath.Join(data, d.name)
		if err := os.MkdirAll(path, d.mode); err != nil {
			return err
		}
		if err := errors.Join(os.Chmod(path, d.mode), os.Chown(path, d.uid, d.uid)); err != nil {
			return err
		}
	}
	return nil
}

// phone is the running init.
type phone struct {
	c     Config
	props *properties
	end   chan int

	mu   sync.Mutex
	adbd *exec.Cmd
	usb  bool // sys.usb.config is not none
}

func boot() (int, error) {
	c, err := readConfig()
	if err != nil {
		return 1, err
	}
	if err := loopbackUp(); err != nil {
		return 1, fmt.Errorf("loopback: %w", err)
	}
	props, err := newProperties()
	if err != nil {
		return 1, err
	}
	p := &phone{c: c, props: props, end: make(chan int, 1), usb: true}
	for name, value := range map[string]string{
		"ro.product.model": c.Model, "ro.build.version.release": c.Release, "ro.build.version.sdk": strconv.Itoa(c.SDK),
		"ro.build.fingerprint": c.Fingerprint, "ro.boot.hypervisor.vm.supported": bit(c.Hypervisor),
		"ro.boot.hypervisor.protected_vm.supported": bit(c.Hypervisor && c.Protected), "ro.sys.safemode": bit(c.SafeMode),
		"ro.product.cpu.abi": map[string]string{"amd64": "x86_64", "arm64": "arm64-v8a"}[c.Arch], "sys.usb.config": "adb",
	} {
		if err := props.set(name, value); err != nil {
			return 1, err
		}
	}
	if c.Hypervisor {
		if err := props.set("ro.boot.hypervisor.version", "kvm.arm-protected"); err != nil {
			return 1, err
		}
	}
	props.changed = p.changed
	if err := props.serve(); err != nil {
		return 1, err
	}
	if err := resetSync(); err != nil {
		return 1, err
	}
	if err := serveNetd(); err != nil {
		return 1, err
	}
	go p.wakeLocks()
	go p.reap()
	if err := p.startADBD(); err != nil {
		return 1, err
	}
	go p.lateStart()
	return <-p.end, nil
}

func bit(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// reap waits for orphans: they are init's.
func (p *phone) reap() {
	for {
		var info unix.Siginfo
		// Not reaped here, if it is a child that somebody waits for.
		if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		// si_pid follows three ints, on the architectures that there are.
		pid := int(*(*int32)(unsafePid(&info)))
		p.mu.Lock()
		ours := p.adbd != nil && p.adbd.Process.Pid == pid
		p.mu.Unlock()
		if ours || runScripts.has(pid) {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		var status unix.WaitStatus
		unix.Wait4(pid, &status, unix.WNOHANG, nil) //nolint:errcheck // somebody was quicker
	}
}

// changed is what init does when a property is set.
func (p *phone) changed(name, value string) {
	switch name {
	case "sys.usb.config":
		p.mu.Lock()
		p.usb = value != "none"
		p.mu.Unlock()
		if value == "none" {
			p.killADBD()
		}
	case "ctl.restart":
		if value == "adbd" {
			p.killADBD()
		}
	case "sys.powerctl":
		go p.shutdown(value)
	}
}

// startADBD starts adbd and starts it again when it ends.
func (p *phone) startADBD() error {
	base := "/apex/com.android.adbd"
	libs, err := filepath.Glob(base + "/usr/lib/*-linux-gnu")
	if err != nil || len(libs) != 1 {
		return fmt.Errorf("no libraries of adbd: %v", libs)
	}
	loaders, err := filepath.Glob(libs[0] + "/ld-linux-*.so.*")
	if err != nil || len(loaders) != 1 {
		return fmt.Errorf("no loader of adbd: %v", loaders)
	}
	start := func() (*exec.Cmd, error) {
		cmd := exec.Command("/system/bin/box", loaders[0], "--library-path", libs[0]+":"+libs[0]+"/android", base+"/usr/lib/android-sdk/platform-tools/adbd")
		cmd.Args[0] = "adbd-launch"
		cmd.Env = []string{"PATH=/system/bin", "HOME=/", "ANDROID_ROOT=/system", "ANDROID_DATA=/data", "TMPDIR=/data/local/tmp"}
		log, err := os.OpenFile("/run/adbd.log", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return nil, err
		}
		defer log.Close()
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		p.mu.Lock()
		defer p.mu.Unlock()
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		p.adbd = cmd
		return cmd, nil
	}
	cmd, err := start()
	if err != nil {
		return err
	}
	go func() {
		for {
			cmd.Wait() //nolint:errcheck // however it ends, it is started again
			for {
				time.Sleep(adbdAfter)
				p.mu.Lock()
				usb := p.usb
				p.mu.Unlock()
				if !usb {
					continue
				}
				if cmd, err = start(); err == nil {
					break
				}
			}
		}
	}()
	return nil
}

// killADBD is init's end of a service: all that is in its cgroup.
func (p *phone) killADBD() {
	groups, err := filepath.Glob("/sys/fs/cgroup/uid_*/pid_*")
	if err != nil {
		return
	}
	for _, g := range groups {
		if os.WriteFile(g+"/cgroup.kill", []byte("1"), 0) == nil {
			for range 100 {
				if os.Remove(g) == nil {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
}

// lateStart runs the scripts of the root manager, and then says that the boot is
// complete.
func (p *phone) lateStart() {
	if !p.c.SafeMode && slices.Contains([]string{"magisk", "kernelsu"}, p.c.Su) {
		p.runServiceD()
	}
	time.Sleep(apexAfter)
	p.props.set("apexd.status", "ready") //nolint:errcheck // a test that waits for it says so
	time.Sleep(completedAfter - apexAfter)
	p.props.set("sys.boot_completed", "1") //nolint:errcheck // as above
	for {
		time.Sleep(syncAfter)
		if err := syncConfig(); err != nil {
			fmt.Fprintln(os.Stderr, "phone-init:", err)
		}
	}
}

// pids is a set of processes that somebody waits for.
type pids struct {
	mu  sync.Mutex
	set map[int]bool
}

func (s *pids) has(pid int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set[pid]
}

func (s *pids) add(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set[pid] = true
}

var runScripts = &pids{set: map[int]bool{}}

// runServiceD runs what Magisk's scripting.cpp would: regular files, no links,
// with an x bit, each by busybox's sh, all at the same time.
func (p *phone) runServiceD() {
	const dir = "/data/adb/service.d"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	sort.Slice(entries, func(i, j int) bool { return entries[i].Name() < entries[j].Name() })
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
			continue
		}
		cmd := exec.Command("/system/bin/busybox", "sh", filepath.Join(dir, e.Name()))
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		cmd.Env = []string{"PATH=/system/bin", "ASH_STANDALONE=1"}
		if err := cmd.Start(); err != nil {
			continue
		}
		runScripts.add(cmd.Process.Pid)
		go cmd.Wait() //nolint:errcheck // its exit code is nobody's
	}
}

// shutdown ends services by SIGTERM, and then everything by SIGKILL. Who is no
// service hears nothing: there is only the property.
func (p *phone) shutdown(how string) {
	p.props.set("sys.shutdown.requested", "0") //nolint:errcheck // it is no hindrance
	p.mu.Lock()
	p.usb = false
	p.mu.Unlock()
	p.killADBD()
	timeout := shutdownTimeout
	if p.c.ShutdownSeconds > 0 {
		timeout = time.Duration(p.c.ShutdownSeconds) * time.Second
	}
	limit := time.Now().Add(timeout)
	for time.Now().Before(limit) && !p.alone() {
		time.Sleep(50 * time.Millisecond)
	}
	if strings.HasPrefix(how, "shutdown") {
		p.end <- ExitPowerOff
		return
	}
	p.end <- ExitReboot
}

// alone says whether no process is left but init; a real one would not look.
func (p *phone) alone() bool {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return false
	}
	n := 0
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid > 1 {
			if text, err := os.ReadFile("/proc/" + e.Name() + "/stat"); err == nil && !bytes.Contains(text, []byte(") Z ")) {
				n++
			}
		}
	}
	return n == 0
}

// wakeLocks makes the two files of /sys/power behave: a name that is written is
// held, or let go, and reading says which are.
func (p *phone) wakeLocks() {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return
	}
	held := map[string]bool{}
	lock, unlock := "/sys/power/wake_lock", "/sys/power/wake_unlock"
	for _, path := range []string{lock, unlock} {
		if _, err := unix.InotifyAddWatch(fd, path, unix.IN_CLOSE_WRITE); err != nil {
			return
		}
	}
	buf := make([]byte, 4096)
	for {
		if _, err := unix.Read(fd, buf); err != nil {
			return
		}
		names, err := os.ReadFile(lock)
		if err != nil {
			return
		}
		for _, name := range strings.Fields(string(names)) {
			held[name] = true
		}
		gone, err := os.ReadFile(unlock)
		if err != nil {
			return
		}
		for _, name := range strings.Fields(string(gone)) {
			delete(held, name)
		}
		var all []string
		for name := range held {
			all = append(all, name)
		}
		sort.Strings(all)
		text := strings.Join(all, " ") + "\n"
		if len(gone) > 0 {
			os.Truncate(unlock, 0) //nolint:errcheck // then it is read again
		}
		if string(names) != text {
			os.WriteFile(lock, []byte(text), 0o644) //nolint:errcheck // as above
		}
	}
}
