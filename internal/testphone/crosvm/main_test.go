package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// phone is a directory with what a command line names.
type phone struct {
	t   *testing.T
	dir string
	s   settings
}

func newPhone(t *testing.T) *phone {
	t.Helper()
	p := &phone{t: t, dir: t.TempDir(), s: settings{Profile: "a16", Arch: "arm64", Dry: true}}
	image := make([]byte, 0x300)
	copy(image[0x38:], "ARM\x64")
	p.write("Image", string(image))
	p.write("initrd", "x")
	p.write("root.img", strings.Repeat("\x00", 8192))
	p.write("data.img", strings.Repeat("\x00", 8192))
	t.Chdir(p.dir)
	return p
}

func (p *phone) write(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// run takes a command line as a shell would, without quotes of its own.
func (p *phone) run(line string) (code int, out, errs string) {
	p.t.Helper()
	var stdout, stderr bytes.Buffer
	code = run(p.s, strings.Fields(line), &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

// good is a command line without a fault. The machine that it asks for is reset at
// once: nothing is booted here.
const good = "--extended-status --log-level info,disk=warn run --disable-sandbox --mem 64 --cpus 2 --socket control.sock " +
	"--serial type=file,hardware=serial,num=1,console,path=console.log --block path=root.img,ro=true,id=root --block data.img " +
	"--initrd initrd --params a=b --params c"

// TestArguments holds the stand-in to what is known of crosvm: each line is a
// fault, its exit code and a word of its message.
func TestArguments(t *testing.T) {
	for _, c := range []struct {
		line string
		code int
		says string
	}{
		{good + " Image", exitReset, "reset"},
		{strings.ReplaceAll(good, " --mem 64", " --mem=64") + " Image", exitReset, ""},
		{strings.ReplaceAll(good, "--mem 64", "--mem size=0x40") + " Image", exitReset, ""},
		{strings.TrimPrefix(good, "--extended-status ") + " Image", exitStop, ""}, // all ends are 0 without it
		{"run --help", exitStop, ""},
		{"run -h", exitStop, ""},

		// The parser's, 35 always.
		{"", exitBadArgs, "subcommand"},
		{"frobnicate", exitBadArgs, "Required positional"},
		{good + " --frobnicate Image", exitBadArgs, "Unrecognized argument: --frobnicate"},
		{strings.TrimPrefix(good, "--extended-status ") + " --frobnicate Image", exitBadArgs, "arg parsing failed"},
		{good + " --extended-status Image", exitBadArgs, "--extended-status"}, // it comes before "run"
		{good + " Image --mem", exitBadArgs, "No value"},
		{good + " --mem 64 Image", exitBadArgs, "duplicate"},
		{good + " Image other", exitBadArgs, "Unrecognized argument: other"},
		{good + " --block path=x,frob=1 Image", exitBadArgs, "unknown field `frob`"},
		{good + " --block ro=true Image", exitBadArgs, "missing field `path`"},
		{good + " --block path=x,ro=maybe Image", exitBadArgs, "expected boolean"},
		{good + " --block path=x,ro,ro Image", exitBadArgs, "duplicate field"},
		{good + " --block path=x,id=123456789012345678901 Image", exitBadArgs, "20 bytes"},
		{good + ` --block path="x"y Image`, exitBadArgs, "expected comma"},
		{good + ` --block path=x"y" Image`, exitBadArgs, "quote"},
		{good + " --block path=a[1] Image", exitBadArgs, "expected comma"},
		{strings.ReplaceAll(good, "--mem 64", "--mem x") + " Image", exitBadArgs, "number"},
		{good + " --serial type=file,num=5,path=x Image", exitBadArgs, "out of range"},
		{good + " --serial type=stdout,num=2,stdin,input=x Image", exitBadArgs, "cannot specify both"},
		{good + " --serial type=sink,num=2,pci-address=00:01.0 Image", exitBadArgs, "pci-address"},
		{good + " --net mac=02:00:00:00:00:01 Image", exitBadArgs, "exactly one"},
		{good + " --net tap-name=a,tap-fd=3 Image", exitBadArgs, "exactly one"},
		{good + " --hypervisor xen Image", exitBadArgs, "unknown variant"},
		{good + " --smccc-trng Image", exitBadArgs, "Unrecognized"}, // newer builds only
		{strings.ReplaceAll(good, "--cpus 2", "--cpus 2,sve=[enabled=true]") + " Image", exitBadArgs, "sve"},

		// Contradictions, and what is not there: 1.
		{good, exitFailed, "executable is not specified"},
		{good + " --bios x Image", exitFailed, "--bios"},
		{good + " --protected-vm --protected-vm-without-firmware Image", exitFailed, "one protection mode"},
		{good + " --protected-vm-with-firmware nothing Image", exitFailed, "existing file"},
		{good + " --balloon-page-reporting --no-balloon Image", exitFailed, "balloon"},
		{good + " --block path=x,root --block path=y,root Image", exitFailed, "root"},
		{good + " --serial type=sink,hardware=serial,num=1 Image", exitFailed, "already set"},
		{good + " --serial type=sink,num=2,earlycon --serial type=sink,num=3,earlycon Image", exitFailed, "early console"},
		{good + " --serial type=sink,hardware=virtio-console,earlycon Image", exitFailed, "earlycon"},
		{good + " --serial type=stdout,num=2,stdin --serial type=stdout,num=3,stdin Image", exitFailed, "stdin"},
		{good + " --serial type=file,num=2 Image", exitFailed, "path is needed"},
		{good + " --vsock cid=9 --cid 9 Image", exitFailed, "together"},
		{strings.ReplaceAll(good, "--cpus 2", fmt.Sprintf("--cpus %d", runtime.NumCPU()+1)) + " --host-cpu-topology Image", exitFailed, "host"},
		{strings.ReplaceAll(good, "--disable-sandbox", "--unmap-guest-memory-on-fork") + " Image", exitFailed, "--disable-sandbox"},

		// The world.
		{strings.ReplaceAll(good, "--disable-sandbox", "") + " Image", exitFailed, "PID namespaces"},
		{good + " --net tap-name=a,vhost-net Image", exitFailed, "vhost-net"},
		{good + " nothing", exitFailed, "failed to open nothing"},
		{good + " initrd", exitFailed, "kernel could not be loaded"},
		{good + " --block path=nothing Image", exitFailed, "failed to open disk image"},
		{good + " --params " + strings.Repeat("x", 2040) + " Image", exitFailed, "too large"},
	} {
		p := newPhone(t)
		code, _, errs := p.run(c.line)
		if code != c.code || !strings.Contains(errs, c.says) {
			t.Errorf("%s\n\texit code %d, want %d, with %q in %q", c.line, code, c.code, c.says, errs)
		}
		if _, err := os.Stat("control.sock"); err == nil {
			t.Errorf("%s: its end leaves the socket", c.line)
		}
	}
}

func TestProfiles(t *testing.T) {
	p := newPhone(t)
	for profile, c := range map[string]struct {
		line string
		code int
	}{
		"newer":     {good + " --smccc-trng Image", exitReset},
		"no-net":    {good + " --net tap-name=a Image", exitBadArgs},
		"early-sve": {strings.ReplaceAll(good, "--cpus 2", "--cpus 2,sve=[enabled=true]") + " Image", exitReset},
	} {
		p.s.Profile = profile
		if code, _, errs := p.run(c.line); code != c.code {
			t.Errorf("%s: exit code %d: %s", profile, code, errs)
		}
		_, out, _ := p.run("run --help")
		if has := strings.Contains(out, "--net "); has == (profile == "no-net") {
			t.Errorf("%s: help lists --net: %v", profile, has)
		}
		if has := strings.Contains(out, "--smccc-trng"); has != (profile == "newer") {
			t.Errorf("%s: help lists --smccc-trng: %v", profile, has)
		}
	}
}

// TestWorld has what others hold, and what a guest has written.
func TestWorld(t *testing.T) {
	p := newPhone(t)
	for _, c := range []struct {
		name string
		how  int
		ok   bool
	}{{"root.img", unix.LOCK_SH, true}, {"root.img", unix.LOCK_EX, false}, {"data.img", unix.LOCK_SH, false}} {
		f, err := os.Open(c.name)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(f.Fd()), c.how); err != nil {
			t.Fatal(err)
		}
		code, _, errs := p.run(good + " Image")
		if ok := code == exitReset; ok != c.ok || !ok && !strings.Contains(errs, "failed to lock file") {
			t.Errorf("%s locked by %d: exit code %d: %s", c.name, c.how, code, errs)
		}
		if code, _, errs := p.run(strings.ReplaceAll(good, "--block data.img", "--block data.img,lock=false") + " Image"); c.name == "data.img" && code != exitReset {
			t.Errorf("without the lock: exit code %d: %s", code, errs)
		}
		f.Close()
	}
	p.write("control.sock", "")
	if code, _, errs := p.run(good + " Image"); code != exitFailed || !strings.Contains(errs, "failed to create control server") {
		t.Errorf("the socket is there: exit code %d: %s", code, errs)
	}
	if err := os.Remove("control.sock"); err != nil {
		t.Fatal(err)
	}
	for _, head := range []string{"composite_disk\x1d", "QFI\xfb", "\x3a\xff\x26\xed", "\x28\xb5\x2f\xfd"} {
		p.write("data.img", head)
		if code, _, errs := p.run(good + " Image"); code != exitFailed || !strings.Contains(errs, "SECURITY: image type") {
			t.Errorf("an image that begins with %q: exit code %d: %s", head, code, errs)
		}
	}
	p.write("data.img", "")
	limit := unix.Rlimit{}
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Cur != unix.RLIM_INFINITY {
		if code, _, errs := p.run(good + " --protected-vm-without-firmware Image"); code != exitFailed || !strings.Contains(errs, "memlock") {
			t.Errorf("protected with a limit of locked memory: exit code %d: %s", code, errs)
		}
	}
}

func TestKernels(t *testing.T) {
	p := newPhone(t)
	bz := make([]byte, 0x300)
	copy(bz[0x202:], "HdrS")
	p.write("bzImage", string(bz))
	p.write("gzip", "\x1f\x8b"+strings.Repeat("x", 0x300))
	p.write("elf", "\x7fELF"+strings.Repeat("x", 0x300))
	p.write("lz4", "\x04\x22\x4d\x18"+strings.Repeat("x", 0x300))
	for _, c := range []struct {
		arch, kernel string
		ok           bool
	}{{"arm64", "Image", true}, {"arm64", "elf", true}, {"arm64", "lz4", true}, {"arm64", "gzip", false}, {"arm64", "bzImage", false},
		{"amd64", "bzImage", true}, {"amd64", "elf", true}, {"amd64", "Image", false}, {"amd64", "lz4", false}} {
		if err := checkKernel(c.kernel, c.arch); (err == nil) != c.ok {
			t.Errorf("%s on %s: %v", c.kernel, c.arch, err)
		}
	}
}

func TestCmdline(t *testing.T) {
	for _, c := range []struct {
		c    config
		want string
	}{
		{config{params: []string{"a", "b"}}, "panic=-1 console=ttyS0 a b"}, // the default console
		{config{serials: []serial{{hardware: "serial", num: 1}}}, "panic=-1"},
		{config{serials: []serial{{hardware: "serial", num: 2, console: true}, {hardware: "virtio-console", num: 1, console: true}}, params: []string{"x"}},
			"panic=-1 console=ttyS1 console=hvc0 x"},
		{config{serials: []serial{{hardware: "serial", num: 1}}, params: []string{"x"}, blocks: []block{{}, {root: true, ro: true}}}, "panic=-1 x root=/dev/vdb ro"},
	} {
		if got, err := c.c.cmdline("arm64"); err != nil || got != c.want {
			t.Errorf("%q, %v; want %q", got, err, c.want)
		}
	}
}

func TestQEMU(t *testing.T) {
	base := config{memMiB: 576, cpus: 2, swiotlbMiB: 64, blocks: []block{{path: "a", id: "root", ro: true}, {path: "b", id: "x,y"}}}
	for _, c := range []struct {
		edit       func(*config)
		arch       string
		has, lacks []string
	}{
		{func(*config) {}, "arm64", []string{"its=off", "virtio-rng-pci", "pvpanic-pci", "werror=report", "serial=x,,y", "-no-reboot"}, []string{"iommu_platform", "discard=unmap"}},
		{func(c *config) { c.protected = true }, "amd64", []string{"iommu_platform=on", "swiotlb=", "no_timer_check"}, []string{"virtio-rng"}},
		{func(c *config) { c.blocks[1].sparse, c.noBalloon, c.noRNG = true, true, true }, "amd64", []string{"discard=unmap"}, []string{"balloon", "virtio-rng"}},
	} {
		cfg := base
		cfg.blocks = append([]block{}, base.blocks...)
		c.edit(&cfg)
		args, err := (&qemu{arch: c.arch, c: cfg, disks: []place{{fd: 7}, {fd: 8}}}).arguments()
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(args, " ")
		for _, w := range c.has {
			if !strings.Contains(text, w) {
				t.Errorf("no %s in %s", w, text)
			}
		}
		for _, w := range c.lacks {
			if strings.Contains(text, w) {
				t.Errorf("%s in %s", w, text)
			}
		}
	}
}

func FuzzKeyValues(f *testing.F) {
	for _, s := range []string{"path=a,ro", `"a,b",id='c'`, "num-cores=4,clusters=[[0,1],[2]]", "kvm[device=/dev/kvm]", "a=,", "=", "[", `"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := keyValues(s, "path")
		if err == nil && len(list) == 0 {
			t.Errorf("%q is nothing", s)
		}
	})
}
