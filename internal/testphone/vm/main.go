// The program vm of the test phone: a strict stand-in for that of Android's service
// for virtual machines, for adb's shell. It takes its command line and its file,
// does what the service does with them, and runs the crosvm beside it as the service
// runs the real one. It is for tests alone, and is held by its own to what is known
// of the real one (packages/modules/Virtualization: android/vm/src/{main,run}.rs,
// libs/vmconfig/src/lib.rs, android/virtmgr/src/{crosvm,composite}.rs).
//
// It is stricter where the real one lets a mistake pass: it refuses a name in the
// file that is not known, and a file that lies where SELinux would keep the service
// from it. It gives crosvm no control socket, which nobody of ours is given either.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/sovereign-build/sovereign/internal/testphone/composite"
)

// settings are what a test says of the phone, in vm.json beside the program.
type settings struct {
	// OldTopology: the service is of before March of 2025, and knows no numbers of
	// CPUs.
	OldTopology bool `json:"old_topology"`
	// Anyone: also root may, and files may lie anywhere; for this program's tests.
	Anyone bool `json:"anyone"`
}

func main() {
	// The thread that starts crosvm has to live as long as this program: crosvm
	// ends with it, as a machine ends with the one who asked for it.
	runtime.LockOSThread()
	s, err := readSettings()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm.json:", err)
		os.Exit(1)
	}
	os.Exit(run(s, os.Args[1:], os.Stdout, os.Stderr))
}

func beside(name string) (string, error) {
	self, err := os.Executable()
	return filepath.Join(filepath.Dir(self), name), err
}

func readSettings() (s settings, err error) {
	path, err := beside("vm.json")
	if err != nil {
		return s, err
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	return s, err
}

// usage is what clap refuses: exit code 2.
type usage struct{ error }

func usagef(format string, args ...any) error { return &usage{fmt.Errorf(format, args...)} }

// run is the program. Once a machine was started its exit code is 0, whatever
// became of it.
func run(s settings, args []string, stdout, stderr io.Writer) int {
	err := command(s, args, stdout, stderr)
	var wrong *usage
	switch {
	case errors.As(err, &wrong):
		fmt.Fprintf(stderr, "error: %v\n\nFor more information, try '--help'.\n", err)
		return 2
	case err != nil:
		fmt.Fprintf(stderr, "Error: %v\n", err)
		return 1
	}
	return 0
}

func command(s settings, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return usagef("'vm' requires a subcommand but one was not provided")
	}
	switch args[0] {
	case "run":
		f, err := parse(s, args[1:])
		if err != nil {
			return err
		}
		return runMachine(s, f, stdout, stderr)
	case "info":
		_, err := fmt.Fprintln(stdout, "Both protected and non-protected VMs are supported.\nHypervisor version: 1.0\n/dev/kvm exists.")
		return err
	}
	return usagef("unrecognized subcommand '%s'", args[0])
}

// flags of "run".
type flags struct {
	name, config string
	cpus         int
	mem          int // MiB; 0: the file's
}

// withValue are the options that take one, and alone those that take none; short
// ones stand for those.
var (
	withValue = []string{"--name", "--cpu-topology", "--mem", "--console", "--console-in", "--log", "--gdb", "--debug", "--dump-device-tree"}
	alone     = []string{"--protected", "--hugepages", "--boost-uclamp"}
	shorts    = map[string]string{"-m": "--mem", "-p": "--protected", "-h": "--hugepages", "-b": "--boost-uclamp"}
)

func parse(s settings, args []string) (f flags, err error) {
	f.name, f.cpus = "VmRun", 1
	seen := map[string]bool{}
	for i := 0; i < len(args); i++ {
		a, value, joined := strings.Cut(args[i], "=")
		if !strings.HasPrefix(a, "-") {
			if f.config != "" {
				return f, usagef("unexpected argument '%s' found", args[i])
			}
			f.config = args[i]
			continue
		}
		if long, ok := shorts[a]; ok {
			a = long
		}
		switch {
		case slices.Contains(alone, a) && !joined:
			continue
		case !slices.Contains(withValue, a):
			return f, usagef("unexpected argument '%s' found", a)
		case seen[a]:
			return f, usagef("the argument '%s' cannot be used multiple times", a)
		case !joined:
			if i++; i >= len(args) {
				return f, usagef("a value is required for '%s' but none was supplied", a)
			}
			value = args[i]
		}
		seen[a] = true
		switch a {
		case "--name":
			f.name = value
		case "--mem":
			if f.mem, err = strconv.Atoi(value); err != nil || f.mem < 0 {
				return f, usagef("invalid value '%s' for '--mem <MEM>': invalid digit found in string", value)
			}
		case "--cpu-topology":
			n, counted := strings.CutPrefix(value, "cpu_count=")
			switch {
			case value == "one_cpu":
			case value == "match_host":
				f.cpus = runtime.NumCPU()
			case counted && !s.OldTopology:
				f.cpus, err = strconv.Atoi(n)
			default:
				err = errors.New("no such topology")
			}
			if err != nil || f.cpus < 1 {
				return f, usagef("invalid value '%s' for '--cpu-topology <CPU_TOPOLOGY>': Invalid cpu topology %[1]s", value)
			}
		default:
			return f, usagef("the stand-in takes no %s: nothing of ours gives it", a)
		}
	}
	if f.config == "" {
		return f, usagef("the following required arguments were not provided:\n  <CONFIG>")
	}
	return f, nil
}

// config is VmConfig.
type config struct {
	Name                   *string
	Kernel, Initrd, Params *string
	Bootloader             *string
	Disks                  []diskImage
	Protected              bool
	MemoryMiB              *int    `json:"memory_mib"`
	CPUTopology            *string `json:"cpu_topology"`
	PlatformVersion        *string `json:"platform_version"`
	Devices                []string
	ConsoleInputDevice     *string `json:"console_input_device"`
	USBConfig              any     `json:"usb_config"`
}

type diskImage struct {
	Image      *string
	Partitions []partition
	Writable   *bool
}

type partition struct {
	Label    *string
	Path     *string
	Writable bool
	GUID     *string
}

func readConfig(path string) (c config, err error) {
	f, err := os.Open(path)
	if err != nil {
		//lint:ignore ST1005 these are Android's words
		return c, fmt.Errorf("Failed to open config file: %w", err)
	}
	defer f.Close()
	d := json.NewDecoder(f)
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		//lint:ignore ST1005 as above
		return c, fmt.Errorf("Failed to parse config file: %w (the real one ignores names that it does not know)", err)
	}
	switch {
	case c.PlatformVersion == nil:
		err = errors.New("missing field `platform_version`")
	case *c.PlatformVersion != "~1.0" && *c.PlatformVersion != "1.0.0":
		err = fmt.Errorf("platform version %s is not that of this service, 1.0.0", *c.PlatformVersion)
	case c.Bootloader == nil && c.Kernel == nil:
		//lint:ignore ST1005 as above
		err = errors.New("VM must have either a bootloader or a kernel image.")
	case c.Bootloader != nil:
		err = errors.New("the stand-in has no bootloader")
	}
	for _, d := range c.Disks {
		if err == nil && (d.Image == nil) == (len(d.Partitions) == 0) {
			//lint:ignore ST1005 as above
			err = errors.New("Exactly one of image and partitions must be specified.")
		}
		if err == nil && d.Writable == nil {
			err = errors.New("missing field `writable`")
		}
	}
	return c, err
}

// given opens a file as vm does, and holds it to the rules of SELinux: crosvm may
// use what is labelled shell_data_file.
func (s settings) given(path string, writable bool) (*os.File, error) {
	how := os.O_RDONLY
	if writable {
		how = os.O_RDWR
	}
	f, err := os.OpenFile(path, how, 0)
	if err != nil {
		//lint:ignore ST1005 these are Android's words
		return nil, fmt.Errorf("Failed to open %q: %w", path, err)
	}
	real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err == nil && !s.Anyone && !strings.HasPrefix(real, "/data/local/tmp/") {
		err = fmt.Errorf("avc: denied { read } for %s: its label is not shell_data_file", real)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// machine is what is handed to crosvm.
type machine struct {
	s     settings
	files []*os.File
}

// pass has crosvm get a file, and is the path by which it finds that.
func (m *machine) pass(f *os.File) string {
	m.files = append(m.files, f)
	return fmt.Sprintf("/proc/self/fd/%d", 2+len(m.files))
}

// disk is the path of an image, or of a composite disk of partitions.
func (m *machine) disk(d diskImage) (string, error) {
	if d.Image != nil {
		f, err := m.s.given(*d.Image, *d.Writable)
		if err != nil {
			return "", err
		}
		return m.pass(f), nil
	}
	var parts []composite.Partition
	for _, p := range d.Partitions {
		if p.Label == nil || p.Path == nil {
			return "", errors.New("missing field `label` or `path`")
		}
		f, err := m.s.given(*p.Path, p.Writable)
		if err != nil {
			return "", err
		}
		info, err := f.Stat()
		if err != nil {
			return "", err
		}
		parts = append(parts, composite.Partition{Label: *p.Label, Path: m.pass(f), Writable: p.Writable, Size: uint64(info.Size())})
	}
	own := func(content []byte) (*os.File, error) {
		f, err := os.CreateTemp("", "vm-composite-")
		if err == nil {
			err = errors.Join(os.Remove(f.Name()), func() error { _, err := f.Write(content); return err }())
		}
		return f, err
	}
	h, err := own(nil)
	if err != nil {
		return "", err
	}
	t, err := own(nil)
	if err != nil {
		return "", err
	}
	c, header, footer, err := composite.Make(parts, m.pass(h), m.pass(t))
	if err != nil {
		return "", err
	}
	if _, err := h.WriteAt(header, 0); err != nil {
		return "", err
	}
	if _, err := t.WriteAt(footer, 0); err != nil {
		return "", err
	}
	f, err := own(c.Marshal())
	if err != nil {
		return "", err
	}
	return m.pass(f), nil
}

func runMachine(s settings, f flags, stdout, stderr io.Writer) error {
	c, err := readConfig(f.config)
	if err != nil {
		return err
	}
	switch uid := os.Getuid(); {
	case s.Anyone:
	case uid == 0:
		//lint:ignore ST1005 these are Android's words
		return errors.New("Failed to connect to VirtualizationService: Failed to remove memlock rlimit: Permission denied (os error 13)")
	case uid != 2000:
		//lint:ignore ST1005 as above
		return errors.New("Failed to create VM: does not have the android.permission.MANAGE_VIRTUAL_MACHINE permission")
	}
	if c.Protected {
		//lint:ignore ST1005 as above
		return errors.New("Failed to start VM: PVM_FIRMWARE_PUBLIC_KEY_MISMATCH")
	}
	m := machine{s: s}
	crosvm, err := beside("crosvm")
	if err != nil {
		return err
	}
	mem := 256
	if c.MemoryMiB != nil {
		mem = *c.MemoryMiB
	}
	if f.mem != 0 {
		mem = f.mem
	}
	// 2048 to 65535 are given to machines one after the other; another's is found
	// out by crosvm here.
	cid := 2048 + rand.IntN(60000)
	args := []string{"--extended-status", "--log-level", "info,disk=warn", "run", "--name", "crosvm_" + f.name,
		"--disable-sandbox", "--cid", strconv.Itoa(cid), "--no-balloon", "--no-usb", "--mem", strconv.Itoa(mem), "--cpus", strconv.Itoa(f.cpus)}
	console := "type=file,path=" + m.pass(os.Stdout)
	args = append(args, "--serial="+console+",hardware=serial,num=1", "--serial=type=sink,hardware=serial,num=2",
		"--serial="+console+",hardware=virtio-console,num=1", "--serial=type=sink,hardware=virtio-console,num=2", "--serial=type=sink,hardware=virtio-console,num=3")
	if c.Initrd != nil {
		file, err := s.given(*c.Initrd, false)
		if err != nil {
			return err
		}
		args = append(args, "--initrd", m.pass(file))
	}
	if c.Params != nil {
		args = append(args, "--params", *c.Params)
	}
	for _, d := range c.Disks {
		path, err := m.disk(d)
		if err != nil {
			return err
		}
		args = append(args, "--block", fmt.Sprintf("path=%s,ro=%t,lock=false", path, !*d.Writable))
	}
	kernel, err := s.given(*c.Kernel, false)
	if err != nil {
		return err
	}
	args = append(args, m.pass(kernel))
	if runtime.GOARCH == "arm64" {
		args = append(args, "--no-pmu")
	}
	cmd := exec.Command(crosvm, args...)
	cmd.Stderr, cmd.ExtraFiles = stderr, m.files
	// The service ends a machine whose owner is gone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		//lint:ignore ST1005 these are Android's words
		return fmt.Errorf("Failed to start VM: %w", err)
	}
	fmt.Fprintf(stdout, "Created VM from %q with CID %d, state is STARTING.\n", f.config, cid)
	err = cmd.Wait()
	fmt.Fprintf(stdout, "VM ended: %s\n", reason(cmd.ProcessState))
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	return nil
}

// reason is the service's word for an end (virtmgr's death_reason).
func reason(s *os.ProcessState) string {
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return "Killed"
	}
	switch s.ExitCode() {
	case 0:
		return "Shutdown"
	case 1, 35:
		return "StartFailed"
	case 32:
		return "Reboot"
	case 33, 34:
		return "Crash"
	case 36:
		return "WatchdogReboot"
	}
	return "Unknown"
}
