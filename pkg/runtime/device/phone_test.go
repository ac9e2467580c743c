package device

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/adb"
)

// fakeADB is an adb server with one phone, "P", whose shell runs commands here,
// with a directory of stand-ins before everything else. The real adb and adbd are
// in internal/testphone.
func fakeADB(t *testing.T, programs map[string]string) *phones {
	t.Helper()
	bin := t.TempDir()
	for name, text := range programs {
		if err := os.WriteFile(bin+"/"+name, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				for {
					var digits [4]byte
					if _, err := io.ReadFull(r, digits[:]); err != nil {
						return
					}
					n, err := strconv.ParseUint(string(digits[:]), 16, 16)
					if err != nil {
						return
					}
					request := make([]byte, n)
					if _, err := io.ReadFull(r, request); err != nil {
						return
					}
					if string(request) == "host:transport:P" {
						io.WriteString(conn, "OKAY")
						continue
					}
					command, ok := strings.CutPrefix(string(request), "shell,v2,raw:")
					if !ok {
						fmt.Fprintf(conn, "FAIL%04x%s", len("device offline"), "device offline")
						return
					}
					io.WriteString(conn, "OKAY")
					shell(conn, command, bin)
					return
				}
			}()
		}
	}()
	return &phones{server: &adb.Server{Address: l.Addr().String()}, cache: t.TempDir()}
}

func shell(w io.Writer, command, bin string) {
	cmd := exec.Command("/bin/sh", "-c", command)
	cmd.Env = []string{"PATH=" + bin + ":/usr/bin:/bin"}
	packet := func(kind byte, content []byte) {
		h := make([]byte, 5)
		h[0] = kind
		binary.LittleEndian.PutUint32(h[1:], uint32(len(content)))
		w.Write(append(h, content...))
	}
	out, err := cmd.Output()
	packet(1, out)
	var exit *exec.ExitError
	code := byte(0)
	if errors.As(err, &exit) {
		packet(2, exit.Stderr)
		code = byte(exit.ExitCode())
	}
	packet(3, []byte{code})
}

const user = "if [ \"$1\" = -u ]; then echo ${UID_OF:-2000}; fi\n"

// Each kind of root is told apart, and found once.
func TestRoot(t *testing.T) {
	for _, tt := range []struct {
		programs map[string]string
		want     Root
		class    fault.Class // of the error
	}{
		{map[string]string{"id": "echo 0"}, RootADBD, 0},
		{map[string]string{"id": user, "su": `[ "$1" = -c ] || exit 1; UID_OF=0 exec sh -c "$2"`}, RootSuC, 0},
		{map[string]string{"id": user, "su": `[ "$1" = 0 ] || { echo "su: invalid uid/gid '$1'" >&2; exit 1; }; shift; UID_OF=0 exec "$@"`}, RootSu0, 0},
		{map[string]string{"id": user, "su": "echo Permission denied >&2; exit 13"}, NoRoot, fault.Device},
		{map[string]string{"id": "echo hello"}, NoRoot, fault.Device}, // this computer's own su says no
	} {
		p := fakeADB(t, tt.programs)
		r, err := p.root(t.Context(), "P")
		if r != tt.want || tt.class == 0 && err != nil || tt.class != 0 && (fault.ClassOf(err) != tt.class || fault.HintOf(err) == "") {
			t.Errorf("%v: %q, %v", tt.programs, r, err)
		}
		if err != nil {
			continue
		}
		// A word with quotes gets there as it is.
		out, err := p.server.Output(t.Context(), "P", r.wrap(`printf '%s|' "a b" 'c' "$(id -u)"`))
		if err != nil || out != "a b|c|0|" {
			t.Errorf("%s: %q, %v", r, out, err)
		}
		// What is known is not asked again, until it is forgotten.
		known := &phones{server: &adb.Server{Address: "127.0.0.1:1"}, cache: p.cache}
		if again, err := known.root(t.Context(), "P"); again != tt.want || err != nil {
			t.Errorf("%q, %v", again, err)
		}
		known.forget("P")
		if again, err := known.root(t.Context(), "P"); again != NoRoot || err == nil {
			t.Errorf("%q, %v", again, err)
		}
	}
}

func TestPhoneFacts(t *testing.T) {
	lines := []string{
		"os Linux", "machine aarch64", "user 0", "program /data/adb/sovereign/sovereignd", "digest 12", "kernel 6.6.1-android15", "model Pixel 9",
		"android 16", "sdk 36", "booted 1", "safemode 0", "avf 1", "protected true", "crosvm /apex/x", "hypervisor-device /dev/kvm", "vsock yes",
		"manager magisk 28.1", "data 1000 500", "filesystem f2fs", "battery 80", "charging Full", "memory 2048", "unit /data/adb/service.d/sovereign.sh", "ready",
	}
	next := func(lines []string) func() (string, string, error) {
		return func() (string, string, error) {
			if len(lines) == 0 {
				return "", "", io.ErrUnexpectedEOF
			}
			key, value, _ := strings.Cut(lines[0], " ")
			lines = lines[1:]
			return key, value, nil
		}
	}
	f, err := parseFacts(next(lines))
	if err != nil {
		t.Fatal(err)
	}
	p := f.Phone
	if f.Arch() != "arm64" || !f.Boots() || !f.KVM || p.Model != "Pixel 9" || p.SDK != 36 || !p.AVF || !p.Protected || p.DataSize != 1000<<10 || p.DataFree != 500<<10 || p.Battery != 80 || p.Memory != 2<<20 || !p.Vsock || p.SafeMode {
		t.Errorf("%+v, %+v", f, p)
	}
	for _, bad := range []string{"sdk many", "data x y", "data 1", "battery -3", "memory 99999999999999999999"} {
		if _, err := parseFacts(next([]string{bad, "ready"})); fault.ClassOf(err) != fault.Device {
			t.Errorf("%s: %v", bad, err)
		}
	}
	p.SafeMode = true
	if f.Boots() {
		t.Error("in safe mode nothing starts it")
	}
}

// The script of phones does nothing at all in part.
func TestPhoneScriptInPart(t *testing.T) {
	for n := 0; n < len(phoneScript); n += 211 {
		cmd := exec.Command("sh")
		cmd.Stdin = strings.NewReader(phoneScript[:n])
		if out, _ := cmd.CombinedOutput(); strings.Contains(string(out), prefix) {
			t.Errorf("%d bytes of it say %q", n, out)
		}
	}
}

// A command's error says that of the way there, in its class.
func TestPhoneConn(t *testing.T) {
	d := Phone("P")
	for status, want := range map[error]fault.Class{
		fault.Errorf(fault.Environment, "no permissions").Hintf("do"): fault.Environment,
		&adb.ExitError{Code: 127}:                                     fault.Environment,
		&adb.ExitError{Code: 1}:                                       fault.Device,
	} {
		if err := d.failed(status, "x"); fault.ClassOf(err) != want {
			t.Errorf("%v: %v", status, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Dial(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
