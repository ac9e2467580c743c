package qemu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/arch"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// oldest is the lowest major version let through. Tests have run with 7.2
// (Debian 12) alone; an older 6 is let through untested, and says itself which
// option it does not know.
const oldest = 6

// names returns the program that runs guests of an architecture, and the
// package of Debian that it is in.
func names(goarch string) (program, debian string, ok bool) {
	a, ok := arch.Of(goarch)
	return a.QEMU, a.QEMUPackage, ok
}

var versionForm = regexp.MustCompile(`version ((\d{1,4})\.\d+[.0-9]*)`)

// find locates QEMU for a guest's architecture.
func find(goarch string) (string, error) {
	program, debian, ok := names(goarch)
	if !ok {
		return "", fault.Errorf(fault.Usage, "no QEMU is known for the architecture %q", goarch).
			Hintf("use a bundle for %s", arch.Choice())
	}
	path, err := process.LookPath(program)
	if err != nil {
		return "", fault.Errorf(fault.Environment, "%s is not installed, and a bundle for %s runs under it: %w", program, goarch, err).
			Hintf("on Debian, apt-get install %s", debian)
	}
	return path, nil
}

// command asks QEMU something about itself.
func command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = process.Environment()
	return cmd
}

// version asks QEMU for its version.
func version(ctx context.Context, program string) (string, error) {
	out, err := command(ctx, program, "-version").Output()
	if err != nil {
		return "", fault.Errorf(fault.Environment, "asking %s for its version: %w", program, err).
			Hintf("install QEMU again")
	}
	v, major, err := parseVersion(out)
	if err != nil {
		return "", fault.Errorf(fault.Environment, "%s: %w", program, err)
	}
	if major < oldest {
		return "", fault.Errorf(fault.Environment, "%s is version %s, and %d or newer is needed", program, v, oldest).
			Hintf("install a newer QEMU; Debian 12 has 7.2")
	}
	return v, nil
}

func parseVersion(out []byte) (string, int, error) {
	m := versionForm.FindSubmatch(out)
	if m == nil {
		return "", 0, fmt.Errorf("its version is %.80q", out)
	}
	major, err := strconv.Atoi(string(m[2]))
	return string(m[1]), major, err
}

// sandboxWorks says whether this QEMU was built to confine itself. It reads
// -sandbox before it lists its machines, and starts none.
func sandboxWorks(ctx context.Context, program string) bool {
	return command(ctx, program, "-sandbox", sandbox, "-machine", "help").Run() == nil
}

// qboot is a firmware that does nothing but start a kernel. It is part of QEMU.
const qboot = "qboot.rom"

// firmware is what an x86 machine starts with: qboot where QEMU has it, and
// else SeaBIOS, QEMU's own choice. SeaBIOS does more itself, and leaves the PCI
// devices switched on. Linux then switches each off and on again to size its
// windows, and QEMU lays out its address spaces anew each time: the scan of the
// bus took 59 ms instead of 10. Under TCG a machine was ready after 3.3 s with
// SeaBIOS and 3.0 with qboot (medians of ten boots in turns, QEMU 7.2). On
// arm64 QEMU starts the kernel itself.
func firmware(ctx context.Context, program, goarch string) string {
	if goarch != "amd64" {
		return ""
	}
	// A QEMU that does not list its directories has its own choice.
	out, err := command(ctx, program, "-L", "help").Output()
	if err != nil {
		return ""
	}
	for _, dir := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		file := filepath.Join(dir, qboot)
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return ""
}
