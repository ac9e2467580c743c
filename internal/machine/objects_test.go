package machine

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/continuity"
)

// withData is a machine that was started and stopped, with some data.
func (f *fixture) withData(t *testing.T) (*Instance, []byte) {
	t.Helper()
	f.start(t, UpOptions{MemoryMiB: 256, Ports: map[int]int{5432: freePort(t)}})
	f.stopped(t)
	i, err := f.Instance(t.Context(), "sql")
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 64<<20) // as large as it has to be: it is read and written whole
	copy(data[5<<20:], bytes.Repeat([]byte("rows"), 50_000))
	copy(data[len(data)-4:], "last")
	if err := os.WriteFile(i.dataPath(), data, 0o600); err != nil {
		t.Fatal(err)
	}
	i.rec.Continuity = &Witnessed{Continuity: runtime.Continuity{Lineage: strings.Repeat("a", 32), Epoch: 7, Hash: strings.Repeat("b", 64)}}
	if err := i.saveRecord(); err != nil {
		t.Fatal(err)
	}
	return i, data
}

// freePort is one that nobody has a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (f *fixture) holds(t *testing.T, name string, data []byte) *Instance {
	t.Helper()
	i, err := f.Instance(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(i.dataPath())
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%s has other data: %d and %d bytes, %v", name, len(got), len(data), err)
	}
	if err := i.verifySlot(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if i.rec.Wanted != Down || i.rec.Active != "a" || i.rec.Options.MemoryMiB != 256 {
		t.Fatalf("record %+v", i.rec)
	}
	return i
}

func TestClone(t *testing.T) {
	f := setup(t, "good")
	from, data := f.withData(t)
	info, err := f.Clone(t.Context(), "sql", "copy", nil)
	if err != nil || info.Live || info.Size != int64(len(data)) || info.Continuity == nil || info.Continuity.Epoch != 7 {
		t.Fatalf("%+v, %v", info, err)
	}
	i := f.holds(t, "copy", data)
	if !continuity.IsID(i.rec.Clone) || i.rec.Continuity != nil || len(i.rec.Options.Ports) != 0 {
		t.Fatalf("record %+v", i.rec)
	}
	if word := i.historyWord(); word != " sovereign.clone="+i.rec.Clone {
		t.Errorf("the guest is told %q", word)
	}
	if word := from.historyWord(); !strings.HasPrefix(word, " sovereign.continuity=aaaa") {
		t.Errorf("the other guest is told %q", word)
	}
	for name, want := range map[string]string{"copy": "already", "Copy": "cannot be", "sql": "already"} {
		if _, err := f.Clone(t.Context(), "sql", name, nil); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// One that was given up leaves nothing.
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Clone(ended, "sql", "never", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if names, err := f.Names(); err != nil || len(names) != 2 {
		t.Errorf("%v, %v", names, err)
	}
}

func TestExportImport(t *testing.T) {
	f := setup(t, "good")
	from, data := f.withData(t)
	var file bytes.Buffer
	if err := f.Export(t.Context(), "sql", &file); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Import(t.Context(), "", false, bytes.NewReader(file.Bytes())); fault.ClassOf(err) != fault.Usage {
		t.Errorf("into a machine that is there: %v", err)
	}
	made, err := f.Import(t.Context(), "moved", false, bytes.NewReader(file.Bytes()))
	if err != nil || made.Name != "moved" || made.From != "sql" || made.Size != int64(len(data)) {
		t.Fatalf("%+v, %v", made, err)
	}
	i := f.holds(t, "moved", data)
	if i.rec.Clone != "" || i.rec.Continuity == nil || i.rec.Continuity.Epoch != 7 || len(i.rec.Options.Ports) != 1 {
		t.Fatalf("record %+v", i.rec)
	}
	if _, err := f.Import(t.Context(), "twin", true, bytes.NewReader(file.Bytes())); err != nil {
		t.Fatal(err)
	}
	if i = f.holds(t, "twin", data); !continuity.IsID(i.rec.Clone) || i.rec.Continuity != nil || len(i.rec.Options.Ports) != 0 {
		t.Fatalf("record %+v", i.rec)
	}
	for _, n := range []int{0, 100, file.Len() / 2, file.Len() - 1} {
		if _, err := f.Import(t.Context(), "part", false, bytes.NewReader(file.Bytes()[:n])); fault.ClassOf(err) != fault.Verification {
			t.Errorf("%d of %d bytes: %v", n, file.Len(), err)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(from.dir))
	if err != nil || len(entries) != 3 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// TestRename cuts the power behind every change that is on the disk.
func TestRename(t *testing.T) {
	f := setup(t, "good")
	_, data := f.withData(t)
	for n := range 3 {
		cut := errors.New("power cut")
		left := n
		f.did = func(string) {
			if left--; left < 0 {
				panic(cut)
			}
		}
		func() {
			defer func() {
				if r := recover(); r != nil && r != error(cut) {
					panic(r)
				}
			}()
			if err := f.Rename(t.Context(), "sql", "orders"); err != nil {
				t.Fatal(err)
			}
		}()
		f.did = func(string) {}
		names, err := f.Names()
		if err != nil || len(names) != 1 {
			t.Fatalf("cut %d: %v, %v", n, names, err)
		}
		i := f.holds(t, names[0], data)
		if i.Name() != names[0] || !strings.HasPrefix(i.rec.Bundle.Path, i.dir+"/") {
			t.Fatalf("cut %d: record %+v", n, i.rec)
		}
		if names[0] == "orders" {
			if err := f.Rename(t.Context(), "orders", "sql"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.Rename(t.Context(), "sql", "Orders"); fault.ClassOf(err) != fault.Usage {
		t.Errorf("a wrong name: %v", err)
	}
	if _, err := f.Clone(t.Context(), "sql", "copy", nil); err != nil {
		t.Fatal(err)
	}
	if err := f.Rename(t.Context(), "sql", "copy"); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "already") {
		t.Errorf("a name that is taken: %v", err)
	}
}

// TestSnapshotOfStopped holds the machine's lock.
func TestSnapshotOfStopped(t *testing.T) {
	f := setup(t, "good")
	i, data := f.withData(t)
	s, err := i.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	im, err := s.Image()
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(data))
	if _, err := im.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("another disk: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Up(ended, "sql", UpOptions{}, nil); err == nil {
		t.Error("it was started under the snapshot")
	}
	if err := s.Check(t.Context(), im); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Up(t.Context(), "sql", UpOptions{}, nil); err != nil {
		t.Fatal(err)
	}
}
