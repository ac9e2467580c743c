package disk_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// debian gives files of Debian's packages for one architecture, from the
// mirrors that the machine is set up for.
type debian struct {
	t    *testing.T
	opts []string
}

func newDebian(t *testing.T, arch string) debian {
	t.Helper()
	d := debian{t: t}
	if strings.TrimSpace(string(d.run("dpkg", "--print-architecture"))) == arch {
		return d
	}
	// Lists of another architecture, beside the machine's own.
	dir := t.TempDir()
	for _, sub := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range []string{
		"APT::Architecture=" + arch, "APT::Architectures=" + arch, "Acquire::Languages=none",
		"Dir::State::Lists=" + dir + "/lists", "Dir::State::status=/dev/null", "Dir::Cache=" + dir + "/cache",
	} {
		d.opts = append(d.opts, "-o", o)
	}
	d.run("apt-get", append(d.opts, "-qq", "update")...)
	return d
}

// file is one file of a package, or of the package of its version where it is
// one that only names that.
func (d debian) file(name, pattern string) []byte {
	d.t.Helper()
	for line := range strings.Lines(string(d.run("apt-cache", append(d.opts, "show", "--no-all-versions", name)...))) {
		if depends, ok := strings.CutPrefix(line, "Depends: linux-image-"); ok {
			name = "linux-image-" + strings.Fields(strings.ReplaceAll(depends, ",", " "))[0]
		}
	}
	dir := d.t.TempDir()
	cmd := exec.CommandContext(d.t.Context(), "apt-get", append(d.opts, "-qq", "download", name)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		d.t.Skipf("cannot download %s: %v\n%s", name, err, out)
	}
	return d.run("sh", "-ec", `dpkg-deb --fsys-tarfile "$1"/*.deb | tar -xO --wildcards "$2"`, "sh", dir, pattern)
}

// run skips the test where this is not Debian, or has no network.
func (d debian) run(name string, args ...string) []byte {
	d.t.Helper()
	out, err := exec.CommandContext(d.t.Context(), name, args...).Output()
	if err != nil {
		stderr := ""
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			stderr = tail(string(exit.Stderr), 500)
		}
		d.t.Skipf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr)
	}
	return out
}
