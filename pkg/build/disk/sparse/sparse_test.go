package sparse

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// holey is a file of 8 MiB with data at 1 MiB and at 5 MiB.
func holey(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "holey"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	for _, at := range []int64{1 << 20, 5 << 20} {
		if _, err := f.WriteAt(bytes.Repeat([]byte("data"), 4096), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(8 << 20); err != nil {
		t.Fatal(err)
	}
	return f
}

func collect(t *testing.T, r io.ReaderAt, size int64) []Extent {
	t.Helper()
	var all []Extent
	for e, err := range Extents(r, size) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

func TestExtents(t *testing.T) {
	f := holey(t)
	if _, err := f.Seek(17, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	whole := collect(t, f, 8<<20)
	if len(whole) == 1 && whole[0].Size == 8<<20 {
		t.Skip("this file system has no holes")
	}
	if diff := cmp.Diff([]Extent{{1 << 20, 16384}, {5 << 20, 16384}}, whole); diff != "" {
		t.Error(diff)
	}
	section := io.NewSectionReader(io.NewSectionReader(f, 1<<20, 6<<20), 4096, 5<<20)
	if diff := cmp.Diff([]Extent{{0, 12288}, {4<<20 - 4096, 8192}}, collect(t, section, 4<<20+4096)); diff != "" {
		t.Error(diff)
	}
	odd := io.NewSectionReader(f, 1<<20-100, 1<<20)
	if diff := cmp.Diff([]Extent{{0, 20480}}, collect(t, odd, 1<<20)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]Extent{{0, 3}}, collect(t, strings.NewReader("abc"), 3)); diff != "" {
		t.Error(diff)
	}
	for range Extents(f, 8<<20) {
		break
	}
	if at, err := f.Seek(0, io.SeekCurrent); at != 17 || err != nil {
		t.Errorf("the file stands at %d, %v", at, err)
	}
	if got := collect(t, f, 1<<20); got != nil {
		t.Errorf("a hole has %v", got)
	}
}

func TestSum(t *testing.T) {
	f := holey(t)
	data, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	sum := func(r io.ReaderAt, size int64) [32]byte {
		s, err := Sum(context.Background(), r, size)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	want := sum(f, 8<<20)
	if got := sum(bytes.NewReader(data), 8<<20); got != want {
		t.Error("holes change the sum")
	}
	if sum(f, 8<<20-1) == want {
		t.Error("the size does not change the sum")
	}
	data[5<<20+9000] ^= 1
	if sum(bytes.NewReader(data), 8<<20) == want {
		t.Error("a bit does not change the sum")
	}
	if _, err := Sum(context.Background(), bytes.NewReader(nil), 1); err == nil {
		t.Error("what is not there has a sum")
	}
}

func TestCopy(t *testing.T) {
	f := holey(t)
	want, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]io.Reader{
		"file":    f,
		"section": io.NewSectionReader(f, 0, 8<<20),
		"bytes":   bytes.NewReader(want),
		"stream":  struct{ io.Reader }{bytes.NewReader(want)},
	} {
		out, err := os.Create(filepath.Join(t.TempDir(), "copy"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		if n, err := Copy(context.Background(), out, r, 8<<20); n != 8<<20 || err != nil {
			t.Errorf("%s: %d, %v", name, n, err)
		}
		if err := out.Truncate(8 << 20); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(out.Name()); !bytes.Equal(got, want) {
			t.Errorf("%s: the copy differs", name)
		}
		var st syscall.Stat_t
		if err := syscall.Fstat(int(out.Fd()), &st); err != nil || st.Blocks*512 > 64<<10 {
			t.Errorf("%s: %d bytes on disk, %v", name, st.Blocks*512, err)
		}
		if n, err := Copy(context.Background(), out, r, 10); n != 0 || err != nil {
			t.Errorf("%s: %d bytes after the end, %v", name, n, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Copy(ctx, f, strings.NewReader("x"), 1); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
