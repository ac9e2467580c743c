package datadisk

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const testSize = 64 * mib

// image returns a sparse disk image with pieces written at offsets.
func image(t *testing.T, size int64, pieces map[int64]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for at, s := range pieces {
		if _, err := f.WriteAt([]byte(s), at); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func inspect(t *testing.T, path string, size int64) Content {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := Inspect(f, size)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestInspect(t *testing.T) {
	for _, c := range []struct {
		name   string
		pieces map[int64]string
		kind   Kind
		what   string
	}{
		{"blank", nil, Blank, ""},
		{"marker", map[int64]string{testSize - block: string(marker(testSize))}, Interrupted, ""},
		{"marker and half a file system", map[int64]string{testSize - block: string(marker(testSize)), 1024 + 0x38: "\x53\xef", 5000: "x"}, Interrupted, ""},
		{"marker of another size", map[int64]string{testSize - block: string(marker(testSize + 1))}, Foreign, "end"},
		{"ext4", map[int64]string{1024 + 0x38: "\x53\xef"}, Ext4, ""},
		{"xfs", map[int64]string{0: "XFSB"}, Foreign, "XFS"},
		{"btrfs", map[int64]string{0x10040: "_BHRfS_M"}, Foreign, "btrfs"},
		{"luks", map[int64]string{0: "LUKS\xba\xbe\x00\x02"}, Foreign, "LUKS"},
		{"gpt", map[int64]string{510: "\x55\xaa", 512: "EFI PART"}, Foreign, "GPT"},
		{"mbr", map[int64]string{510: "\x55\xaa"}, Foreign, "MBR"},
		{"swap", map[int64]string{4086: "SWAPSPACE2"}, Foreign, "swap"},
		{"one byte at the start", map[int64]string{mib - 1: "x"}, Foreign, "start"},
		{"md raid at the end", map[int64]string{testSize - 8192: "\xfc\x4e\x2b\xa9"}, Foreign, "end"},
		{"ext4 with a wiped start", map[int64]string{8193<<10 + 0x38: "\x53\xef"}, Foreign, "byte 8389632"},
		{"a byte in a sample", map[int64]string{32 * mib: "x"}, Foreign, "byte 33554432"},
	} {
		got := inspect(t, image(t, testSize, c.pieces), testSize)
		if got.Kind != c.kind || !strings.Contains(got.What, c.what) || (c.what == "") != (got.What == "") {
			t.Errorf("%s: got %+v", c.name, got)
		}
	}
	if _, err := Inspect(bytes.NewReader(make([]byte, mib)), mib); err == nil {
		t.Error("a disk of 1 MiB was accepted")
	}
}

// hostRun runs the programs of this machine; e2fsprogs is on every Debian.
func hostRun(ctx context.Context, argv ...string) (int, string, error) {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), string(out), nil
	}
	return 0, string(out), err
}

func needE2fsprogs(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(mke2fs); err != nil {
		t.Skip("no " + mke2fs + ": install e2fsprogs")
	}
}

func TestPrepareFormatsAndChecks(t *testing.T) {
	needE2fsprogs(t)
	path := image(t, testSize, nil)
	var notes []string
	note := func(s string) { notes = append(notes, s) }
	for range 2 {
		if err := Prepare(t.Context(), path, hostRun, note); err != nil {
			t.Fatal(err)
		}
	}
	if len(notes) != 1 || notes[0] != "formatted (64 MiB)" {
		t.Errorf("notes: got %q", notes)
	}
	if c := inspect(t, path, testSize); c.Kind != Ext4 || c.FileSystem != testSize-reserve {
		t.Errorf("after the format: got %+v", c)
	}
}

// A power cut at any step of the format must lead to another format, and never
// to a refusal or to a mount.
func TestPrepareAfterPowerCut(t *testing.T) {
	needE2fsprogs(t)
	cut := errors.New("power cut")
	for name, run := range map[string]Runner{
		"before mke2fs": func(context.Context, ...string) (int, string, error) { return 0, "", cut },
		"half way": func(_ context.Context, argv ...string) (int, string, error) {
			dev := argv[len(argv)-2]
			f, err := os.OpenFile(dev, os.O_RDWR, 0)
			if err != nil {
				return 0, "", err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte("half a superblock"), 1024)
			return 0, "", errors.Join(cut, err)
		},
		"after mke2fs": func(ctx context.Context, argv ...string) (int, string, error) {
			_, out, err := hostRun(ctx, argv...)
			return 0, out, errors.Join(cut, err)
		},
	} {
		path := image(t, testSize, nil)
		if err := Prepare(t.Context(), path, run, func(string) {}); !errors.Is(err, cut) {
			t.Fatalf("%s: got %v", name, err)
		}
		if c := inspect(t, path, testSize); c.Kind != Interrupted {
			t.Errorf("%s: got %+v", name, c)
		}
		if err := Prepare(t.Context(), path, hostRun, func(string) {}); err != nil {
			t.Errorf("%s: format again: %v", name, err)
		}
		if c := inspect(t, path, testSize); c.Kind != Ext4 {
			t.Errorf("%s: after the second format: got %+v", name, c)
		}
	}
}

func TestPrepareLeavesOthersAlone(t *testing.T) {
	path := image(t, testSize, map[int64]string{0: "XFSB", 5000: "data"})
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	run := func(context.Context, ...string) (int, string, error) {
		t.Error("a program was run")
		return 0, "", nil
	}
	err = Prepare(t.Context(), path, run, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "holds XFS, and is left alone") {
		t.Errorf("got %v", err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the disk changed (%v)", err)
	}
}

func TestCheckRefusesABrokenFileSystem(t *testing.T) {
	path := image(t, testSize, map[int64]string{1024 + 0x38: "\x53\xef"})
	run := func(context.Context, ...string) (int, string, error) { return 4, "bad\nworse\n", nil }
	err := Prepare(t.Context(), path, run, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "exit status 4: bad; worse") {
		t.Errorf("got %v", err)
	}
}

func FuzzInspect(f *testing.F) {
	f.Add([]byte("XFSB"), 0)
	f.Add([]byte("\x53\xef"), 1024+0x38)
	f.Fuzz(func(t *testing.T, piece []byte, at int) {
		disk := make([]byte, MinSize)
		if at < 0 || at > len(disk) {
			return
		}
		copy(disk[at:], piece)
		c, err := Inspect(bytes.NewReader(disk), int64(len(disk)))
		if err != nil {
			t.Fatal(err)
		}
		if c.Kind == Blank && !zero(disk[:mib]) {
			t.Error("a disk with data in its first MiB is blank")
		}
	})
}
