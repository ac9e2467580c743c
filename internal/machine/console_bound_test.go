package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// storm writes lines as a hypervisor does, appended to an open file, until ctx
// ends, and returns how many it wrote. It does not get further ahead than a
// small file system allows.
func storm(ctx context.Context, t *testing.T, path string) int {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer f.Close()
	for n := 0; ; n++ {
		for {
			info, err := f.Stat()
			if ctx.Err() != nil {
				return n
			}
			if err == nil && info.Size() < 400<<10 {
				break
			}
			goruntime.Gosched()
		}
		if _, err := fmt.Fprintf(f, "[%8d] printk: a line like any other\n", n); err != nil {
			t.Error(err)
			return n
		}
	}
}

// The log of a console is bounded while a guest prints without end, and its end
// can be read all the time, in order.
func TestConsoleStorm(t *testing.T) {
	t.Run("disk", func(t *testing.T) { consoleStorm(t, t.TempDir()) })
	t.Run("memory", func(t *testing.T) {
		if os.Getuid() != 0 {
			t.Skip("needs root, to mount a file system that cuts no beginnings off")
		}
		dir := t.TempDir()
		mountSmall(t, dir)
		consoleStorm(t, dir)
	})
}

func consoleStorm(t *testing.T, dir string) {
	const most = 128 << 10
	i := &Instance{dir: dir}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	written := 0
	var wg sync.WaitGroup
	wg.Go(func() { written = storm(ctx, t, i.ConsoleFile()) })
	older := filepath.Join(i.dir, olderConsole)
	for cuts := 0; cuts < 8; {
		if ctx.Err() != nil {
			t.Fatalf("only %d cuts", cuts)
		}
		before, err := os.Stat(i.ConsoleFile())
		if err != nil {
			continue // the storm has not begun
		}
		if err := i.boundConsole(t.Context(), most); err != nil {
			t.Fatal(err)
		}
		if before.Size() < most {
			continue
		}
		cuts++
		if info, err := os.Stat(older); err != nil || info.Size() < most/2 || info.Size() > 4*most {
			t.Fatalf("the older part: %v, %v", info, err)
		}
		last := -1
		for line := range strings.Lines(i.ConsoleTail(20)) {
			var n int
			if _, err := fmt.Sscanf(line, "[%d] printk: a", &n); err != nil {
				continue // cut in the middle
			}
			if n <= last {
				t.Fatalf("line %d after %d", n, last)
			}
			last = n
		}
		if last < 0 {
			t.Fatalf("the tail is %q", i.ConsoleTail(20))
		}
	}
	cancel()
	wg.Wait()
	f, err := os.OpenFile(i.ConsoleFile(), os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = fmt.Fprintln(f, "Kernel panic - not syncing: the end")
		info, statErr := f.Stat()
		if err = errors.Join(err, statErr, f.Close()); err == nil {
			err = i.boundConsole(t.Context(), info.Size())
		}
	}
	if err != nil || written == 0 {
		t.Fatal(written, err)
	}
	if i.endReason() != "Kernel panic - not syncing: the end" {
		t.Errorf("the end's reason is %q", i.endReason())
	}
}

// The next start puts aside all that was kept of the last one.
func TestRotateLogs(t *testing.T) {
	i := &Instance{dir: t.TempDir()}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(i.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(i.dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return string(b)
	}
	write("console.log", "new\n")
	write("console.log.0", "older\n")
	write("console.log.1", "former\n")
	write("machine.log", "qemu\n")
	for n, want := range []string{"older\nnew\n", "third\n"} {
		if err := i.rotateLogs(); err != nil {
			t.Fatal(err)
		}
		if got := read("console.log.1"); got != want || read("console.log.0") != "" || read("console.log") != "" || read("machine.log.1") != "qemu\n" {
			t.Errorf("%d: former %q", n, got)
		}
		write("console.log", "third\n")
		write("machine.log", "qemu\n")
	}
}

// What bounds the console lets go of the lock, and is held up by nobody.
func TestBoundConsole(t *testing.T) {
	f, i := silent(t, "quick")
	long := bytes.Repeat([]byte("a line of a guest that prints too much\n"), maxConsole/32)
	flood := func() {
		t.Helper()
		log, err := os.OpenFile(i.ConsoleFile(), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = log.Write(long)
		if err := errors.Join(err, log.Close()); err != nil {
			t.Fatal(err)
		}
	}
	bounded := func() {
		t.Helper()
		older, err := os.Stat(filepath.Join(i.dir, olderConsole))
		if err != nil || older.Size() < maxConsole/2 || older.Size() > maxConsole+blockSize {
			t.Errorf("the older part: %v, %v", older, err)
		}
		if info, err := os.Stat(i.ConsoleFile()); err != nil || info.Size() >= maxConsole {
			t.Errorf("%v, %v", info, err)
		}
	}
	flood()
	unlock, err := f.lock(t.Context(), "sql")
	if err != nil {
		t.Fatal(err)
	}
	if err := i.BoundConsole(); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(i.ConsoleFile()); err != nil || info.Size() < maxConsole {
		t.Errorf("while another program is busy: %v, %v", info, err)
	}
	unlock()
	for range 2 {
		if err := i.BoundConsole(); err != nil {
			t.Fatal(err)
		}
		bounded()
		flood()
	}
}
