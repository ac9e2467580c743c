package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

const abcDigest = Digest("sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func temps(t *testing.T, s *Store) []string {
	t.Helper()
	entries, err := os.ReadDir(s.tmp())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestPut(t *testing.T) {
	s := open(t)
	if s.Has(abcDigest) {
		t.Fatal("empty store has the blob")
	}
	if _, err := s.Open(abcDigest); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("Open of an absent blob: %v, want fs.ErrNotExist", err)
	}
	for range 2 {
		d, n, err := s.Put(t.Context(), strings.NewReader("abc"), abcDigest)
		if d != abcDigest || n != 3 || err != nil {
			t.Fatalf("Put = %s, %d, %v", d, n, err)
		}
	}
	info, err := os.Stat(s.Path(abcDigest))
	if err != nil || info.Mode() != 0o444 {
		t.Fatalf("blob's mode is %v, %v, want 0444", info.Mode(), err)
	}
	f, err := s.Open(abcDigest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := io.ReadAll(f); string(b) != "abc" || err != nil {
		t.Fatalf("read %q, %v", b, err)
	}
	if left := temps(t, s); len(left) != 0 {
		t.Fatalf("temporary files left: %v", left)
	}
}

func TestPutKeepsNothing(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	other := FromBytes([]byte("other"))
	tests := map[string]struct {
		ctx   context.Context
		r     io.Reader
		want  Digest
		class fault.Class
		text  []string
	}{
		"wrong digest": {t.Context(), strings.NewReader("abc"), other, fault.Verification, []string{string(other), string(abcDigest)}},
		"read error":   {t.Context(), io.MultiReader(strings.NewReader("ab"), iotest.ErrReader(io.ErrUnexpectedEOF)), abcDigest, fault.Internal, []string{"unexpected EOF"}},
		"cancelled":    {cancelled, strings.NewReader("abc"), abcDigest, fault.Cancelled, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			_, _, err := s.Put(tt.ctx, tt.r, tt.want)
			if err == nil || fault.ClassOf(err) != tt.class {
				t.Fatalf("error %v, want class %d", err, tt.class)
			}
			for _, text := range tt.text {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("error %q does not name %s", err, text)
				}
			}
			if s.Has(abcDigest) || s.Has(other) || len(temps(t, s)) != 0 {
				t.Error("something was kept")
			}
		})
	}
}

func TestAdopt(t *testing.T) {
	s := open(t)
	p := filepath.Join(t.TempDir(), "partial")
	write := func() {
		if err := os.WriteFile(p, []byte("abc"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	if _, _, err := s.Adopt(t.Context(), p, FromBytes(nil)); fault.ClassOf(err) != fault.Verification {
		t.Fatalf("wrong digest: %v", err)
	}
	if _, err := os.Stat(p); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("a file with the wrong digest was kept")
	}
	for range 2 {
		write()
		if d, n, err := s.Adopt(t.Context(), p, abcDigest); d != abcDigest || n != 3 || err != nil {
			t.Fatalf("Adopt = %s, %d, %v", d, n, err)
		}
		if _, err := os.Stat(p); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal("the adopted file is still there")
		}
	}
}

func TestMalformedDigests(t *testing.T) {
	s := open(t)
	for _, d := range []Digest{"", "sha256:", "sha256:../../etc/passwd", abcDigest[:70], abcDigest + "0",
		Digest(strings.ToUpper(string(abcDigest))), "sha512:" + abcDigest[7:]} {
		if s.Path(d) != "" || s.Has(d) {
			t.Errorf("malformed digest %q has a path", d)
		}
		if _, err := ParseDigest(string(d)); err == nil {
			t.Errorf("ParseDigest takes %q", d)
		}
	}
}

func TestConcurrentPuts(t *testing.T) {
	s := open(t)
	body := bytes.Repeat([]byte("x"), 1<<20)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			other, err := Open(s.Dir())
			if err != nil {
				t.Error(err)
				return
			}
			if _, _, err := other.Put(t.Context(), bytes.NewReader(body), FromBytes(body)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if !s.Has(FromBytes(body)) || len(temps(t, s)) != 0 {
		t.Error("blob missing or temporary files left")
	}
}

func TestOpenCleansOldUnownedTemps(t *testing.T) {
	s := open(t)
	old := time.Now().Add(-2 * staleAfter)
	write := func(name string, at time.Time) string {
		p := filepath.Join(s.tmp(), name)
		if err := errors.Join(os.WriteFile(p, []byte("half"), 0o600), os.Chtimes(p, at, at)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	write("new-crashed", old)
	write("new-young", time.Now())
	held, err := os.Open(write("new-held", old))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s.Dir()); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(temps(t, s)); got != "[new-held new-young]" {
		t.Errorf("after Open tmp holds %s", got)
	}
}

func TestActions(t *testing.T) {
	s := open(t)
	d, _, err := s.Put(t.Context(), strings.NewReader("abc"), "")
	if err != nil {
		t.Fatal(err)
	}
	desc := json.RawMessage(`{"script":"make"}`)
	key := Key(desc)
	if _, ok, err := s.Action(key); ok || err != nil {
		t.Fatalf("empty cache: %v, %v", ok, err)
	}
	a := Action{Name: "zlib (arm64)", Description: desc, Outputs: map[string]Digest{"out": d}}
	if err := s.PutAction(key, Action{Name: "x", Outputs: map[string]Digest{"out": FromBytes(nil)}}); err == nil {
		t.Fatal("an action without its output was taken")
	}
	if err := s.PutAction(key, a); err != nil {
		t.Fatal(err)
	}
	got, ok, err := s.Action(key)
	if !ok || err != nil || got.Outputs["out"] != d || string(got.Description) != string(desc) {
		t.Fatalf("Action = %+v, %v, %v", got, ok, err)
	}
	if last, ok, err := s.LastAction(a.Name); !ok || err != nil || string(last.Description) != string(desc) {
		t.Fatalf("LastAction = %+v, %v, %v", last, ok, err)
	}
	if _, ok, err := s.LastAction("other"); ok || err != nil {
		t.Fatalf("LastAction of an unknown name: %v, %v", ok, err)
	}
	if err := os.Remove(s.Path(d)); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.Action(key); ok || err != nil {
		t.Fatalf("an action whose output is gone: %v, %v", ok, err)
	}
	if _, ok, _ := s.LastAction(a.Name); !ok {
		t.Error("LastAction is gone with the blob")
	}
	if err := os.WriteFile(s.actionPath(key), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.Action(key); ok || err != nil {
		t.Fatalf("a damaged action: %v, %v", ok, err)
	}
}

func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to mount a small tmpfs")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, _, err = s.Put(t.Context(), bytes.NewReader(make([]byte, 4<<20)), "")
	if fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "bytes free") {
		t.Fatalf("full disk: %v (class %d)", err, fault.ClassOf(err))
	}
	if fault.HintOf(err) == "" {
		t.Error("no hint")
	}
	if left := temps(t, s); len(left) != 0 {
		t.Errorf("temporary files left: %v", left)
	}
	if _, _, err := s.Put(t.Context(), strings.NewReader("abc"), abcDigest); err != nil {
		t.Errorf("the next, small Put: %v", err)
	}
}

func FuzzParseDigest(f *testing.F) {
	f.Add(string(abcDigest))
	f.Add("sha256:../../etc/passwd")
	s := &Store{dir: "/store"}
	f.Fuzz(func(t *testing.T, in string) {
		p := s.Path(Digest(in))
		if _, err := ParseDigest(in); (err == nil) != (p != "") {
			t.Fatalf("%q: path %q, error %v", in, p, err)
		}
		if p != "" && !strings.HasPrefix(filepath.Clean(p), "/store/blobs/sha256/") {
			t.Fatalf("%q leads to %s", in, p)
		}
	})
}

func TestForgetful(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := s.Put(t.Context(), strings.NewReader("out"), "")
	if err != nil {
		t.Fatal(err)
	}
	kept, gone := Key([]byte("kept")), Key([]byte("gone"))
	for key, name := range map[string]string{kept: "port zlib", gone: "kernel"} {
		if err := s.PutAction(key, Action{Name: name, Outputs: map[string]Digest{"out": d}}); err != nil {
			t.Fatal(err)
		}
	}
	f, err := s.Forgetful(filepath.Join(t.TempDir(), "memory"), func(name string) bool { return name == "kernel" })
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := f.Action(kept); !ok || err != nil {
		t.Errorf("kept: %v, %v", ok, err)
	}
	if _, ok, err := f.Action(gone); ok || err != nil {
		t.Errorf("forgotten: %v, %v", ok, err)
	}
	if !f.Has(d) {
		t.Error("the blobs are not shared")
	}
	if err := f.PutAction(gone, Action{Name: "kernel", Outputs: map[string]Digest{"out": d}}); err != nil {
		t.Fatal(err)
	}
	var keys []string
	if err := f.Actions(func(key string, _ Action) error { keys = append(keys, key); return nil }); err != nil || len(keys) != 2 || keys[0] >= keys[1] {
		t.Errorf("actions %v, %v", keys, err)
	}
}
