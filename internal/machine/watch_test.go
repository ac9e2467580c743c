package machine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/pause"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// watched runs WatchRecords and gives what it tells, and its end.
func watched(t *testing.T, r *Runtime) (told <-chan string, end <-chan error, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	names, ended := make(chan string, 1000), make(chan error, 1)
	go func() { ended <- r.WatchRecords(ctx, func(name string) { names <- name }) }()
	return names, ended, cancel
}

// next returns what is told, without what was told of this name before it.
func next(t *testing.T, told <-chan string, not string) string {
	t.Helper()
	for {
		select {
		case name := <-told:
			if name != not {
				return name
			}
		case <-time.After(time.Minute):
			t.Fatal("nothing is told")
		}
	}
}

func TestWatchRecords(t *testing.T) {
	f := setup(t, "quick")
	f.start(t, UpOptions{})
	told, ended, stop := watched(t, f.Runtime)
	if name := next(t, told, "-"); name != "" {
		t.Errorf("first %q", name)
	}
	// A record that is written, by another program too.
	f.stopped(t)
	if name := next(t, told, "-"); name != "sql" {
		t.Errorf("after a stop %q", name)
	}
	// A new instance: in the end its record can be read.
	if _, err := run(t.Context(), f.Runtime, f.bundle, "forge", UpOptions{}); err != nil {
		t.Fatal(err)
	}
	if name := next(t, told, "sql"); name != "forge" {
		t.Errorf("after an install %q", name)
	}
	i, err := f.Instance(t.Context(), "forge")
	if err != nil {
		t.Fatal(err)
	}
	// What is no record is told of no more than once, whatever the machine does
	// to its disk and console.
	if _, err := i.Stop(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Remove(t.Context(), "sql", true); err != nil {
		t.Fatal(err)
	}
	if name := next(t, told, "forge"); name != "sql" {
		t.Errorf("after a removal %q", name)
	}
	// One that was removed may come again.
	f.start(t, UpOptions{})
	f.stopped(t)
	if _, err := f.Remove(t.Context(), "forge", true); err != nil {
		t.Fatal(err)
	}
	if name := next(t, told, "sql"); name != "forge" {
		t.Errorf("after another removal %q", name)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("at the end of its context: %v", err)
	}
}

// A file that is not the record is nobody's news.
func TestWatchRecordsIsQuiet(t *testing.T) {
	f := setup(t, "quick")
	i := f.start(t, UpOptions{})
	told, _, _ := watched(t, f.Runtime)
	next(t, told, "-")
	disk, err := os.OpenFile(i.dataPath(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = disk.WriteAt([]byte("rows"), 1<<20)
	if err := errors.Join(err, disk.Close(), os.WriteFile(filepath.Join(i.dir, "note"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := i.saveRecord(); err != nil { // comes after all of that
		t.Fatal(err)
	}
	next(t, told, "-")
	select {
	case name := <-told:
		t.Errorf("told of %q twice", name)
	default:
	}
}

func TestWatchRecordsOfWhatIsRemoved(t *testing.T) {
	f := setup(t, "quick")
	told, ended, _ := watched(t, f.Runtime)
	next(t, told, "-")
	if err := os.RemoveAll(filepath.Join(f.state, "instances")); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; fault.ClassOf(err) != fault.Environment || fault.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
	if err := f.WatchRecords(t.Context(), func(string) {}); fault.ClassOf(err) != fault.Environment {
		t.Errorf("of a directory that is not there: %v", err)
	}
}

// The log is kept short as it grows, also when another program was busy at that
// moment, and by nobody's tick.
func TestKeepConsole(t *testing.T) {
	f, i := silent(t, "quick")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- f.KeepConsole(ctx, "sql") }()
	long := bytes.Repeat([]byte("a line of a guest that prints too much\n"), maxConsole/32)
	for _, busy := range []bool{false, true} {
		unlock := func() {}
		if busy {
			var err error
			if unlock, err = f.lock(t.Context(), "sql"); err != nil {
				t.Fatal(err)
			}
		}
		log, err := os.OpenFile(i.ConsoleFile(), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = log.Write(long)
		if err := errors.Join(err, log.Close()); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(i.ConsoleFile()); busy && (err != nil || info.Size() < maxConsole) {
			t.Errorf("cut while another program was busy: %v, %v", info.Size(), err)
		}
		unlock()
		for end := time.Now().Add(time.Minute); ; {
			info, err := os.Stat(i.ConsoleFile())
			if err != nil {
				t.Fatal(err)
			}
			if info.Size() < maxConsole {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("the log has %d bytes", info.Size())
			}
			if err := pause.For(t.Context(), time.Millisecond); err != nil {
				t.Fatal(err)
			}
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := f.KeepConsole(t.Context(), "nobody"); err != nil {
		t.Errorf("where nothing prints: %v", err)
	}
}

func FuzzParseEvents(f *testing.F) {
	event := func(wd int32, mask uint32, name string) []byte {
		b := binary.NativeEndian.AppendUint32(nil, uint32(wd))
		b = binary.NativeEndian.AppendUint32(b, mask)
		b = binary.NativeEndian.AppendUint32(b, 0)
		b = binary.NativeEndian.AppendUint32(b, uint32(len(name)))
		return append(b, name...)
	}
	f.Add(append(event(1, unix.IN_MOVED_TO, "instance.json\x00\x00\x00"), event(2, unix.IN_IGNORED, "")...))
	f.Add(event(-1, unix.IN_Q_OVERFLOW, "")[:14])
	f.Add(binary.NativeEndian.AppendUint32(event(1, 2, "")[:12], 1<<31))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, e := range parseEvents(b) {
			if len(e.name) > len(b) {
				t.Errorf("a name of %d bytes in %d", len(e.name), len(b))
			}
		}
	})
}
