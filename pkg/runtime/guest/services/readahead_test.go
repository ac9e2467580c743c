package services

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// resident counts a file's pages in memory.
func resident(t *testing.T, path string) (in, of int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	of = (int(st.Size()) + page - 1) / page
	mapped, err := unix.Mmap(int(f.Fd()), 0, of*page, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapped)
	state := make([]byte, of)
	if err := mincore(mapped, state); err != nil {
		t.Fatal(err)
	}
	for _, s := range state {
		in += int(s & 1)
	}
	return in, of
}

func TestReadThrough(t *testing.T) {
	path := filepath.Join(t.TempDir(), "library")
	if err := os.WriteFile(path, bytes.Repeat([]byte("library "), 300<<10/8+1), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	if in, of := resident(t, path); in == of {
		t.Logf("all of %d pages stay in memory: this file system is in memory itself", of)
	}
	if !readThrough(path) {
		t.Error("a file is not there")
	}
	if in, of := resident(t, path); in != of {
		t.Errorf("%d of %d pages are in memory", in, of)
	}
	if readThrough(filepath.Dir(path)) || readThrough(path+".not") {
		t.Error("read what is no file")
	}
}

// TestReadLibraries finds the shell's libraries in the second of two
// directories. The first of them is linked with all of them again, itself
// among them, and the rest are no ELF files.
func TestReadLibraries(t *testing.T) {
	shell, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash: ", err)
	}
	names := imported(shell)
	if len(names) == 0 {
		t.Skipf("%s is linked with nothing", shell)
	}
	empty, dir := t.TempDir(), t.TempDir()
	var want []string
	for i, name := range names {
		path := filepath.Join(dir, name)
		content := []byte("no library")
		if i == 0 {
			if content, err = os.ReadFile(shell); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
		want = append(want, path)
	}
	if got := readLibraries(shell, []string{empty, dir}); !slices.Equal(got, want) {
		t.Errorf("read %q, want %q", got, want)
	}
	if got := readLibraries(filepath.Join(dir, names[0])+".not", []string{dir}); got != nil {
		t.Errorf("read %q for no program", got)
	}
}

func mincore(mapped, state []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mapped[0])), uintptr(len(mapped)), uintptr(unsafe.Pointer(&state[0])))
	if errno != 0 {
		return errno
	}
	return nil
}
