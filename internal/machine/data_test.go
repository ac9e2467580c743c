package machine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// format does to an image what the guest does to a blank one, as far as this
// package looks: an ext4 superblock with a UUID.
func format(t *testing.T, path string, uuid byte) {
	t.Helper()
	sb := make([]byte, 1024)
	binary.LittleEndian.PutUint16(sb[0x38:], 0xef53)
	copy(sb[0x68:], bytes.Repeat([]byte{uuid}, 16))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(sb, 1024)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) stopped(t *testing.T) {
	t.Helper()
	i, err := f.Instance(t.Context(), "sql")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
}

// A disk that was there and is not stops the start, and nothing is put in its
// place.
func TestMissingDataDisk(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "disk.img")
	tests := []struct {
		name string
		lose func(path string) error
		want string
		back func(path string) error
	}{
		{"moved away", func(p string) error { return os.Rename(p, elsewhere) }, "does not exist",
			func(p string) error { return os.Rename(elsewhere, p) }},
		{"file system not mounted", func(p string) error {
			return errors.Join(os.Rename(p, elsewhere+"-unplugged"), os.Symlink(elsewhere, p))
		}, "leads to " + elsewhere + ", where nothing is",
			func(string) error { return os.Rename(elsewhere+"-unplugged", elsewhere) }},
		{"emptied", func(p string) error { return os.Truncate(p, 0) }, "is empty",
			func(p string) error { return os.Truncate(p, 1<<30) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := setup(t, "good")
			path := filepath.Join(f.start(t, UpOptions{}).Dir(), dataFile)
			f.stopped(t)
			if err := tt.lose(path); err != nil {
				t.Fatal(err)
			}
			before, statErr := os.Stat(path)
			for range 2 {
				_, err := f.Start(t.Context(), f.bundle, UpOptions{})
				if fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), tt.want) || !strings.HasSuffix(fault.HintOf(err), "sovereign-build up sql --new-data") {
					t.Errorf("class %d, %v, hint %q", fault.ClassOf(err), err, fault.HintOf(err))
				}
			}
			if now, err := os.Stat(path); (err == nil) != (statErr == nil) || err == nil && now.Size() != before.Size() {
				t.Errorf("something was put there: %v, %v", now, err)
			}
			if err := tt.back(path); err != nil {
				t.Fatal(err)
			}
			f.start(t, UpOptions{})
			f.stopped(t)
		})
	}
}

// A record of an older version says nothing of the disk; that the machine ran
// is enough.
func TestMissingDataDiskOfAnOldRecord(t *testing.T) {
	f := setup(t, "good")
	f.start(t, UpOptions{})
	f.stopped(t)
	i, err := f.load("sql")
	if err != nil {
		t.Fatal(err)
	}
	i.rec.Data = nil
	if err := errors.Join(i.saveRecord(), os.Remove(i.dataPath())); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Start(t.Context(), f.bundle, UpOptions{}); fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "is not there: ") {
		t.Errorf("got %v", err)
	}
}

// The disk is known by the file system that the guest made: a copy is the same
// one, another image is not.
func TestAnotherDataDisk(t *testing.T) {
	f := setup(t, "good")
	path := filepath.Join(f.start(t, UpOptions{}).Dir(), dataFile)
	format(t, path, 1)
	f.stopped(t)
	i, err := f.load("sql")
	if want := "01010101-0101-0101-0101-010101010101"; err != nil || i.rec.Data.FileSystem != want {
		t.Fatalf("the record has %+v, %v", i.rec.Data, err)
	}
	since := i.rec.Data.Since

	backup := filepath.Join(t.TempDir(), "backup.img")
	if err := errors.Join(os.Rename(path, backup), copyArtifact(t.Context(), path, backup)); err != nil {
		t.Fatal(err)
	}
	f.start(t, UpOptions{})
	f.stopped(t)

	for _, other := range []func(){
		func() { format(t, path, 2) },
		func() { // blank
			if err := errors.Join(os.Truncate(path, 0), os.Truncate(path, 1<<30)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		other()
		_, err := f.Start(t.Context(), f.bundle, UpOptions{})
		if fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "is another one") || !strings.Contains(fault.HintOf(err), "--new-data") {
			t.Errorf("class %d, %v", fault.ClassOf(err), err)
		}
	}
	format(t, path, 3)
	f.start(t, UpOptions{NewData: true})
	if _, err := f.Start(t.Context(), f.bundle, UpOptions{NewData: true}); fault.ClassOf(err) != fault.Usage {
		t.Errorf("new data for a machine that runs: %v", err)
	}
	f.stopped(t)
	if i, err = f.load("sql"); err != nil || !strings.HasPrefix(i.rec.Data.FileSystem, "0303") || i.rec.NewData || i.rec.Data.Since.Before(since) {
		t.Errorf("the record has %+v, %v", i.rec.Data, err)
	}
}

// A machine that is wanted up waits for its disk, and goes on when it is back.
func TestWantedDataDisk(t *testing.T) {
	f, i := silent(t, "quick")
	format(t, i.dataPath(), 7)
	ready := &agent.Status{State: agent.StateReady, Data: &agent.Data{}}
	if step := f.step(t, Seen{Process: i.proc, Guest: ready}); !strings.Contains(step.Did, "07070707-") {
		t.Errorf("did %q", step.Did)
	}
	if step := f.step(t, Seen{Process: i.proc, Guest: ready}); step.Did != "" {
		t.Errorf("did %q", step.Did)
	}
	f.stopped(t)
	if err := os.Rename(i.dataPath(), i.dataPath()+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Up(t.Context(), "sql", UpOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	if step := f.step(t, Seen{}); !strings.Contains(step.Did, "does not start: the data disk of sql is not there") {
		t.Errorf("did %q", step.Did)
	}
	if _, err := os.Lstat(i.dataPath()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something is there: %v", err)
	}
	// On purpose.
	if _, err := f.Up(t.Context(), "sql", UpOptions{NewData: true}, nil); err != nil {
		t.Fatal(err)
	}
	if step := f.step(t, Seen{}); !strings.HasPrefix(step.Did, "started") {
		t.Errorf("did %q", step.Did)
	}
	if _, err := f.Up(t.Context(), "sql", UpOptions{NewData: true}, nil); fault.ClassOf(err) != fault.Usage {
		t.Errorf("new data for a machine that runs: %v", err)
	}
	now, err := f.load("sql")
	if err != nil || now.rec.Data == nil || now.rec.Data.FileSystem != "" || time.Since(now.rec.Data.Since) > time.Hour {
		t.Errorf("%+v, %v", now.rec.Data, err)
	}
}

func TestRoomAt(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "data.img")
	if at, free, err := roomAt(link); err != nil || at != dir || free <= 0 {
		t.Errorf("no image: %s, %d, %v", at, free, err)
	}
	// The pseudo file system of /proc has no room at all.
	if err := os.Symlink("/proc/version", link); err != nil {
		t.Fatal(err)
	}
	if at, free, err := roomAt(link); err != nil || at != "/proc/version" || free != 0 {
		t.Errorf("a link elsewhere: %s, %d, %v", at, free, err)
	}
}
