package unpack

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/ulikunitz/xz"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// packed is data in each format that this machine can write.
func packed(t testing.TB, data []byte) map[string][]byte {
	t.Helper()
	var x, g bytes.Buffer
	xw, err := xz.NewWriter(&x)
	if err != nil {
		t.Fatal(err)
	}
	gw := gzip.NewWriter(&g)
	for _, w := range []io.WriteCloser{xw, gw} {
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	all := map[string][]byte{"plain": data, "xz": x.Bytes(), "gzip": g.Bytes()}
	if bzip2, err := exec.LookPath("bzip2"); err == nil {
		cmd := exec.Command(bzip2, "-c")
		cmd.Stdin = bytes.NewReader(data)
		if all["bzip2"], err = cmd.Output(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// read is what File gives of data.
func read(t testing.TB, data []byte) ([]byte, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := File(t.Context(), f)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func TestFile(t *testing.T) {
	data := []byte(strings.Repeat("what was there, 0123456789\n", 20_000))
	for kind, path := range map[string]string{"programs": os.Getenv("PATH"), "decoders": t.TempDir()} {
		t.Setenv("PATH", path)
		for name, in := range packed(t, data) {
			if got, err := read(t, in); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s by %s: %d bytes, %v", name, kind, len(got), err)
			}
			if name == "plain" {
				continue
			}
			if _, err := read(t, in[:len(in)-len(in)/3]); err == nil || kind == "programs" && fault.ClassOf(err) != fault.Source {
				t.Errorf("%s that is cut, by %s: %v", name, kind, err)
			}
		}
		if got, err := read(t, nil); err != nil || len(got) != 0 {
			t.Errorf("nothing: %q, %v", got, err)
		}
	}
	// A dictionary of 4 GiB, which would be allocated before the data are looked at.
	t.Setenv("PATH", t.TempDir())
	bomb := append([]byte("\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46"), 2, 0, 0x21, 1, 40, 0, 0, 0)
	if _, err := read(t, bomb); fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "dictionary") {
		t.Errorf("a large dictionary: %v", err)
	}
}

// TestCloseEarly: a program whose output nobody wants any more is ended.
func TestCloseEarly(t *testing.T) {
	in, ok := packed(t, bytes.Repeat([]byte("0123456789abcdef"), 1<<17))["xz"]
	if _, err := exec.LookPath("xz"); err != nil || !ok {
		t.Skip("no xz here")
	}
	path := filepath.Join(t.TempDir(), "f.xz")
	if err := os.WriteFile(path, in, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := File(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if state := r.(*running).cmd.ProcessState; state == nil {
		t.Error("the program runs on")
	}
}

func FuzzNew(f *testing.F) {
	for _, in := range packed(f, []byte("data")) {
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := New(bytes.NewReader(data))
		if err != nil {
			if fault.ClassOf(err) != fault.Source {
				t.Errorf("class %v: %v", fault.ClassOf(err), err)
			}
			return
		}
		defer r.Close()
		_, _ = io.Copy(io.Discard, io.LimitReader(r, 16<<20)) // what is read of nonsense does not matter
	})
}
