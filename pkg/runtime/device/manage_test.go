package device

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// fakeSSH puts an ssh into PATH that runs what it is told here, in a home
// directory of its own, which it returns. compat/ssh has the real one.
func fakeSSH(t *testing.T) (home string) {
	t.Helper()
	bin := t.TempDir()
	home = filepath.Join(t.TempDir(), "home of ann")
	if err := os.Mkdir(home, 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`#!/bin/sh
while [ "$1" != -- ]; do shift; done
case $2 in
refuses) echo "ssh: connect to host $2 port 22: Connection refused" >&2; exit 255 ;;
empty) PATH=/nowhere; export PATH ;;
broken) printf 'sovereignd: the socket'\''s directory has wrong rights\nhint: chmod 700 it\n' >&2; exit 3 ;;
cats) echo up; exec cat ;;
esac
HOME=%q; export HOME; unset XDG_STATE_HOME
echo "Welcome to $2!"
exec /bin/sh -c "$3"
`, home)
	if err := os.WriteFile(filepath.Join(bin, "ssh"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	return home
}

// newPrograms makes a directory with a sovereignd and a sovereign-backup, which
// are any programs that take --version.
func newPrograms(t *testing.T) Programs {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, flags := range map[string]string{"sovereignd": "", "sovereign-backup": "-s -w"} {
		cmd := exec.Command("go", "build", "-ldflags", flags, "-o", filepath.Join(dir, name), source)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GO111MODULE=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return Programs(dir)
}

func ssh(t *testing.T, host string) Device {
	t.Helper()
	d, err := Parse("ssh:" + host)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// below lists the files of a directory.
func below(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && path != dir {
			names = append(names, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestInstall(t *testing.T) {
	home := fakeSSH(t)
	programs, nas := newPrograms(t), ssh(t, "nas")
	var said []string
	report := func(line string) { said = append(said, line) }
	r, err := Install(t.Context(), nas, programs, report)
	if err != nil {
		t.Fatal(err)
	}
	installed := filepath.Join(home, programPath)
	want, err := os.ReadFile(filepath.Join(string(programs), "sovereignd"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(installed)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
	}
	if info, err := os.Stat(installed); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
	f := r.Facts
	if !r.Changed || f.OS != "Linux" || f.Arch() != runtime.GOARCH || f.Program != installed || f.State != filepath.Join(home, ".local/state/sovereign") || f.Digest == "" || f.User == "" {
		t.Errorf("%+v", r)
	}
	beside := filepath.Join(filepath.Dir(installed), "sovereign-backup")
	wantBeside, err := os.ReadFile(filepath.Join(string(programs), "sovereign-backup"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(beside); err != nil || !bytes.Equal(got, wantBeside) || f.Beside == "" || f.Beside == f.Digest {
		t.Errorf("%d of %d bytes, %v, %q", len(got), len(wantBeside), err, f.Beside)
	}
	if len(said) != 2 || !strings.HasPrefix(said[0], "ssh:nas is ") || !strings.Contains(said[0], "sovereign-backup (") || !strings.Contains(said[1], "sovereignd (") {
		t.Errorf("%q", said)
	}
	// Once more, there is nothing to send.
	if r, err := Install(t.Context(), nas, programs, report); err != nil || r.Changed || len(said) != 3 || !strings.HasSuffix(said[2], "already") {
		t.Errorf("%+v, %v, %q", r, err, said)
	}

	// Machines stay, and go only when told to.
	if err := os.MkdirAll(f.State, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Remove(t.Context(), nas, false); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(below(t, home), " "); got != ".local .local/state .local/state/sovereign" {
		t.Errorf("left: %s", got)
	}
	if _, err := Remove(t.Context(), nas, true); err != nil {
		t.Fatal(err)
	}
	if got := below(t, home); len(got) != 0 {
		t.Errorf("left: %s", got)
	}
	// What is not there can be removed again.
	if f, err := Remove(t.Context(), nas, false); err != nil || f.Digest != "" {
		t.Errorf("%+v, %v", f, err)
	}
}

// A file that is damaged on its way never gets to its place, and neither does
// one that does not run.
func TestInstallRefuses(t *testing.T) {
	home := fakeSSH(t)
	nas := ssh(t, "nas")
	for _, tt := range []struct{ told, sent, want string }{
		{"exit 0\n", "exit 0", "ssh:nas: the program did not arrive whole: its digest is "},
		{"exit 0\n", "", "ssh:nas: the program did not arrive whole: its digest is "},
		{"echo no; exit 1\n", "echo no; exit 1\n", "ssh:nas: the program does not run here: no"},
	} {
		s, err := open(t.Context(), nas)
		if err != nil {
			t.Fatal(err)
		}
		err = s.send(fmt.Sprintf("put %x", sha256.Sum256([]byte(tt.told))), strings.NewReader(tt.sent))
		if err == nil {
			err = s.finish()
		}
		s.close()
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) || fault.ClassOf(err) != fault.Environment {
			t.Errorf("%v", err)
		}
		if got := strings.Join(below(t, home), " "); got != ".local .local/share" {
			t.Errorf("left: %s", got)
		}
	}

	empty := Programs(t.TempDir())
	if _, err := Install(t.Context(), nas, empty, func(string) {}); fault.ClassOf(err) != fault.Environment || !strings.Contains(fault.HintOf(err), "make bin/sovereignd-linux-") {
		t.Errorf("%v, %q", err, fault.HintOf(err))
	}
	if _, err := Install(t.Context(), ssh(t, "refuses"), empty, func(string) {}); err == nil || !strings.HasPrefix(err.Error(), "ssh:refuses: ssh: ") || fault.ClassOf(err) != fault.Device {
		t.Error(err)
	}
	for _, d := range []Device{{}, {byCommand, "cat"}} {
		if _, err := Install(t.Context(), d, empty, nil); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: %v", d, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Install(ctx, nas, empty, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A part of the script does nothing at all.
func TestScriptInPart(t *testing.T) {
	home := fakeSSH(t)
	nas := ssh(t, "nas")
	for n := 0; n < len(deviceScript); n += 97 {
		c, err := nas.ssh(t.Context(), fmt.Sprintf(`exec sh -c 'eval "$(dd bs=1 count=%d 2>/dev/null)"'`, len(deviceScript)))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, deviceScript[:n])
		c.CloseWrite()
		if said, _ := io.ReadAll(c); strings.Contains(string(said), prefix) {
			t.Errorf("%d bytes of it say %q", n, said)
		}
		c.Close()
	}
	if got := below(t, home); len(got) != 0 {
		t.Errorf("left: %s", got)
	}
}

func TestPrograms(t *testing.T) {
	p := newPrograms(t)
	other := map[string]string{"amd64": "arm64", "arm64": "amd64"}[runtime.GOARCH]
	program, err := p.For(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	program.Close()
	if len(program.Digest) != len("sha256:")+64 || program.Size == 0 {
		t.Errorf("%+v", program)
	}
	if _, err := p.For(other); fault.ClassOf(err) != fault.Environment || !strings.Contains(fault.HintOf(err), "bin/sovereignd-linux-"+other) {
		t.Errorf("%v, %s", err, fault.HintOf(err))
	}
	if err := os.WriteFile(filepath.Join(string(p), "sovereignd-linux-"+other), []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := p.For(other); err == nil || !strings.Contains(err.Error(), "is not a program for Linux") {
		t.Error(err)
	}
}

func FuzzFacts(f *testing.F) {
	f.Add("sovereign: os Linux\nsovereign: machine x86_64\nsovereign: digest 12\nhello\nsovereign: ready\n")
	f.Add("sovereign: fail it broke\n")
	f.Add("sovereign: digest \n")
	f.Fuzz(func(t *testing.T, said string) {
		c := dial(t, "exec:cat")
		go func() {
			io.WriteString(c, said)
			c.CloseWrite()
		}()
		s := newSession(context.Background(), Device{bySSH, "nas"}, c)
		defer s.close()
		if _, err := parseFacts(s.next); err != nil {
			if text := s.broken(err).Error(); strings.ContainsAny(text, "\x1b\r") {
				t.Fatalf("%q", text)
			}
		}
	})
}
