package cache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ociregistry "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
)

func newKey(t testing.TB) signature.SecretKey {
	t.Helper()
	k, err := signature.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newStore(t testing.TB) *store.Store {
	t.Helper()
	st, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

// step puts what a step made into a store, and returns its key.
func step(t testing.TB, st *store.Store, name, version string, outputs map[string]string) string {
	t.Helper()
	inputs, err := json.Marshal(map[string]string{"source " + name: version, "arch": "x86"})
	if err != nil {
		t.Fatal(err)
	}
	a := store.Action{Name: name, Description: inputs, Outputs: map[string]store.Digest{}}
	for out, text := range outputs {
		if a.Outputs[out], _, err = st.Put(t.Context(), strings.NewReader(text), ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.PutAction(store.Key(inputs), a); err != nil {
		t.Fatal(err)
	}
	return store.Key(inputs)
}

// keep pushes a step from a store to a place.
func keep(t testing.TB, p Place, key signature.SecretKey, st *store.Store, step string) int64 {
	t.Helper()
	a, ok, err := st.Action(step)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	c := New(Options{Push: p, Key: key, Trusted: []signature.Key{key.Public()}})
	n, err := c.Keep(t.Context(), st, step, a)
	if err := errors.Join(err, c.Lost()); err != nil {
		t.Fatal(err)
	}
	return n
}

// site is a registry whose answers a test can change.
type site struct {
	host string
	// change may answer a request in place of the registry.
	change  atomic.Pointer[func(w http.ResponseWriter, r *http.Request) bool]
	uploads atomic.Int64
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{}
	inner := ociregistry.New(ociregistry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/blobs/uploads/") {
			s.uploads.Add(1)
		}
		if change := s.change.Load(); change != nil && (*change)(w, r) {
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.host = strings.TrimPrefix(server.URL, "http://")
	return s
}

func (s *site) set(change func(w http.ResponseWriter, r *http.Request) bool) { s.change.Store(&change) }

// place opens a repository of the site.
func (s *site) place(t testing.TB) Place {
	t.Helper()
	p, err := Open("oci://"+s.host+"/team/cache", &registry.Client{Backoff: remote.Backoff{Duration: time.Millisecond, Steps: 1}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func openDir(t testing.TB, dir string) Place {
	t.Helper()
	p, err := Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestOpen(t *testing.T) {
	for name, want := range map[string]string{
		"oci://registry.example/team/cache":   "oci://registry.example/team/cache",
		"dir/cache":                           "dir/cache",
		"oci://registry.example/team/cache:1": "",
		"oci://registry.example/team/cache@sha256:" + strings.Repeat("0", 64): "",
		"oci://nothing":              "",
		"https://registry.example/a": "",
		"":                           "",
	} {
		p, err := Open(name, nil)
		switch {
		case want == "" && fault.ClassOf(err) != fault.Usage:
			t.Errorf("%q: %v, %v", name, p, err)
		case want != "" && (err != nil || p.String() != want || p.Remote() != strings.HasPrefix(name, "oci:")):
			t.Errorf("%q: %v, %v", name, p, err)
		}
	}
}

// What one machine pushes another one finds, in both kinds of places.
func TestPushAndFind(t *testing.T) {
	key := newKey(t)
	for what, p := range map[string]Place{
		"a registry":  newSite(t).place(t),
		"a directory": openDir(t, filepath.Join(t.TempDir(), "new", "cache")),
	} {
		t.Run(what, func(t *testing.T) {
			from, to := newStore(t), newStore(t)
			outputs := map[string]string{"apk lib": strings.Repeat("library", 30_000), "apk lib-dev": "", "arch/x86/boot/bzImage": "same", "metas": "same"}
			k := step(t, from, "port lib amd64", "1", outputs)
			other := step(t, from, "port other amd64", "1", map[string]string{"apk other": "x"})
			if n := keep(t, p, key, from, k); n != int64(7*30_000+4) {
				t.Errorf("pushed %d bytes", n)
			}
			if n := keep(t, p, key, from, k); n != 0 {
				t.Errorf("the second time it pushed %d bytes", n)
			}
			c := New(Options{Places: []Place{p}, Trusted: []signature.Key{newKey(t).Public(), key.Public()}, Tell: func(tr Trouble) { t.Errorf("%+v", tr) }})
			if f, err := c.Find(t.Context(), to, "port other amd64", other); f != nil || err != nil {
				t.Errorf("what nobody has pushed: %+v, %v", f, err)
			}
			f, err := c.Find(t.Context(), to, "port lib amd64", k)
			if err != nil || f == nil {
				t.Fatal(f, err)
			}
			a, ok, err := to.Action(k)
			if err != nil || !ok || a.Signer != string(key.Public()) || a.Name != "port lib amd64" || f.Place != p.String() || f.By != key.Public() {
				t.Errorf("%+v, %t, %v; %+v", a, ok, err, f)
			}
			for name, text := range outputs {
				got, err := os.ReadFile(to.Path(a.Outputs[name]))
				if err != nil || string(got) != text {
					t.Errorf("%s: %d bytes, %v", name, len(got), err)
				}
			}
		})
	}
}

// Two machines push the same bytes, and nothing of themselves.
func TestEntryIsOfTheStepAlone(t *testing.T) {
	key := newKey(t)
	var files [2]map[string]string
	for i := range files {
		dir := t.TempDir()
		st := newStore(t)
		k := step(t, st, "port lib amd64", "1", map[string]string{"apk lib": "library", "metas": "m"})
		keep(t, openDir(t, dir), key, st, k)
		files[i] = map[string]string{}
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			files[i][strings.TrimPrefix(path, dir)] = string(text)
			if host, _ := os.Hostname(); bytes.Contains(text, []byte(dir)) || bytes.Contains(text, []byte(st.Dir())) || len(host) > 3 && bytes.Contains(text, []byte(host)) {
				t.Errorf("%s has names of this machine: %s", path, text)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(files[0]) != 3 || len(files[1]) != 3 {
		t.Fatalf("%v", files)
	}
	for name, text := range files[0] {
		if files[1][name] != text {
			t.Errorf("%s differs", name)
		}
	}
}

// What whoever can write to a directory does to it.
func TestRefused(t *testing.T) {
	key, stranger := newKey(t), newKey(t)
	outputs := map[string]string{"apk lib": "the library", "metas": "m"}
	type files struct{ dir, entry, blob, other string }
	for what, c := range map[string]struct {
		change func(t *testing.T, f files)
		want   string
	}{
		"an output of other bytes": {func(t *testing.T, f files) { write(t, f.blob, "the libr@ry") }, "output apk lib: blob: wrong digest"},
		"an output cut off":        {func(t *testing.T, f files) { write(t, f.blob, "the lib") }, "output apk lib ends after 7 of 11 bytes"},
		"an output too long":       {func(t *testing.T, f files) { write(t, f.blob, "the library and more") }, "output apk lib is longer than the 11 bytes"},
		"an output gone": {func(t *testing.T, f files) {
			if err := os.Remove(f.blob); err != nil {
				t.Fatal(err)
			}
		}, "is not there"},
		"a byte of the entry changed": {func(t *testing.T, f files) {
			write(t, f.entry, strings.Replace(read(t, f.entry), `"size":11`, `"size":12`, 1))
		}, "was not made of this text"},
		"an entry cut off": {func(t *testing.T, f files) {
			text := read(t, f.entry)
			write(t, f.entry, text[:len(text)-9])
		}, "was not made of this text"},
		"a signature cut off": {func(t *testing.T, f files) { write(t, f.entry, read(t, f.entry)[:100]) }, "it is cut off"},
		"no signature": {func(t *testing.T, f files) {
			_, text := signature.CutNote([]byte(read(t, f.entry)))
			write(t, f.entry, string(text))
		}, "it is not signed"},
		"an empty entry": {func(t *testing.T, f files) { write(t, f.entry, "") }, "it is not signed"},
		"an endless one": {func(t *testing.T, f files) { write(t, f.entry, strings.Repeat("x", MaxEntry+1)) }, "larger than 1048576 bytes"},
		"a pipe": {func(t *testing.T, f files) {
			if err := os.Remove(f.entry); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mkfifo(f.entry, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "is not a file"},
		// A good entry of another step, or of other inputs, under this key.
		"another step's entry": {func(t *testing.T, f files) { write(t, f.entry, read(t, f.other)) }, "its entry is of another step or other inputs: port old amd64"},
		"a stranger's entry": {func(t *testing.T, f files) {
			_, text := signature.CutNote([]byte(read(t, f.entry)))
			note, err := signature.SignNote(stranger, kind, text)
			if err != nil {
				t.Fatal(err)
			}
			write(t, f.entry, string(note)+string(text))
		}, "signed by the key " + string(stranger.Public()) + ", which is not trusted here"},
		"a stranger's under the trusted name": {func(t *testing.T, f files) {
			_, text := signature.CutNote([]byte(read(t, f.entry)))
			note, err := signature.SignNote(stranger, kind, text)
			if err != nil {
				t.Fatal(err)
			}
			write(t, f.entry, strings.ReplaceAll(string(note), string(stranger.Public()), string(key.Public()))+string(text))
		}, "was not made of this text by the key"},
		"another kind of text": {func(t *testing.T, f files) {
			_, text := signature.CutNote([]byte(read(t, f.entry)))
			note, err := signature.SignNote(key, "sovereign-audit-v1", text)
			if err != nil {
				t.Fatal(err)
			}
			write(t, f.entry, string(note)+string(text))
		}, "a text of sovereign-step-v1 is wanted"},
		"another way of writing": {func(t *testing.T, f files) {
			_, text := signature.CutNote([]byte(read(t, f.entry)))
			text = bytes.Replace(text, []byte(`{"schema":1,`), []byte(`{"schema":1, `), 1)
			note, err := signature.SignNote(key, kind, text)
			if err != nil {
				t.Fatal(err)
			}
			write(t, f.entry, string(note)+string(text))
		}, "is not written the one way that there is"},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			p, from, to := openDir(t, dir), newStore(t), newStore(t)
			k := step(t, from, "port lib amd64", "2", outputs)
			old := step(t, from, "port old amd64", "1", outputs)
			keep(t, p, key, from, k)
			keep(t, p, key, from, old)
			a, _, err := from.Action(k)
			if err != nil {
				t.Fatal(err)
			}
			d := directory(dir)
			c.change(t, files{dir, d.entry(k), d.blob(a.Outputs["apk lib"]), d.entry(old)})
			var told []Trouble
			cache := New(Options{Places: []Place{p}, Trusted: []signature.Key{key.Public()}, Tell: func(tr Trouble) { told = append(told, tr) }})
			for range 2 { // told once
				if f, err := cache.Find(t.Context(), to, "port lib amd64", k); f != nil || err != nil {
					t.Fatalf("taken: %+v, %v", f, err)
				}
			}
			if len(told) != 1 || !strings.Contains(told[0].Reason, c.want) || told[0].Place != dir || told[0].Step == "" {
				t.Errorf("told %+v; want %q", told, c.want)
			}
			if _, ok, err := to.Action(k); ok || err != nil {
				t.Errorf("it is in the store: %v", err)
			}
			// The place is asked on.
			if c.want != "larger" {
				if f, err := cache.Find(t.Context(), to, "port old amd64", old); (f == nil) != strings.Contains(what, "output") || err != nil {
					t.Errorf("another step: %+v, %v", f, err)
				}
			}
			// A push mends it, but for what only reading it tells, and what is no
			// file.
			if what == "an output of other bytes" || what == "a pipe" {
				return
			}
			keep(t, p, key, from, k)
			again := New(Options{Places: []Place{p}, Trusted: []signature.Key{key.Public()}})
			if f, err := again.Find(t.Context(), to, "port lib amd64", k); f == nil || err != nil {
				t.Errorf("after another push: %+v, %v", f, err)
			}
		})
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A registry that goes away in the middle, that is slow, or that gives other
// bytes, ends nothing: the next place is asked, and then the step runs.
func TestRegistryFails(t *testing.T) {
	key := newKey(t)
	outputs := map[string]string{"apk lib": strings.Repeat("library", 100_000), "metas": "m"}
	library := "/blobs/" + store.FromBytes([]byte(outputs["apk lib"])).String()
	for what, c := range map[string]struct {
		change func(done <-chan struct{}) func(w http.ResponseWriter, r *http.Request) bool
		want   string
		down   bool
	}{
		"down": {func(<-chan struct{}) func(w http.ResponseWriter, r *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool { panic(http.ErrAbortHandler) }
		}, "EOF", true},
		"busy": {func(<-chan struct{}) func(w http.ResponseWriter, r *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(http.StatusForbidden); return true }
		}, "403", true},
		"down in the middle of an output": {func(<-chan struct{}) func(w http.ResponseWriter, r *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, library) {
					return false
				}
				w.Header().Set("Content-Length", "700000")
				_, _ = w.Write(bytes.Repeat([]byte("library"), 10_000))
				panic(http.ErrAbortHandler)
			}
		}, "EOF", true},
		"silent in the middle of an output": {func(done <-chan struct{}) func(w http.ResponseWriter, r *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, library) {
					return false
				}
				w.Header().Set("Content-Length", "700000")
				_, _ = w.Write(bytes.Repeat([]byte("library"), 1000))
				_ = http.NewResponseController(w).Flush()
				<-done
				return true
			}
		}, "it sent nothing for", true},
		"a redirect to a page": {func(<-chan struct{}) func(w http.ResponseWriter, r *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, library) {
					return false
				}
				_, _ = w.Write([]byte("<html>log in</html>"))
				return true
			}
		}, "checksum after reading 19 bytes", true},
		"a blob that it has lost": {func(<-chan struct{}) func(w http.ResponseWriter, r *http.Request) bool {
			return func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, library) {
					return false
				}
				w.WriteHeader(http.StatusNotFound)
				return true
			}
		}, "a part of it is not there", false},
	} {
		t.Run(what, func(t *testing.T) {
			from, to := newStore(t), newStore(t)
			s := newSite(t)
			k := step(t, from, "port lib amd64", "1", outputs)
			keep(t, s.place(t), key, from, k)
			spare := openDir(t, t.TempDir())
			keep(t, spare, key, from, k)
			done := make(chan struct{})
			defer close(done)
			s.set(c.change(done))
			var stall time.Duration // only where it has to come: a busy machine is slow too
			if strings.HasPrefix(what, "silent") {
				stall = 3 * time.Second
			}
			var told []Trouble
			cache := New(Options{Places: []Place{s.place(t)}, Trusted: []signature.Key{key.Public()}, Stall: stall, Tell: func(tr Trouble) { told = append(told, tr) }})
			for range 2 {
				if f, err := cache.Find(t.Context(), to, "port lib amd64", k); f != nil || err != nil {
					t.Fatalf("taken: %+v, %v", f, err)
				}
			}
			if len(told) != 1 || !strings.Contains(told[0].Reason, c.want) || (told[0].Step == "") != c.down {
				t.Errorf("told %+v", told)
			}
			two := New(Options{Places: []Place{s.place(t), spare}, Trusted: []signature.Key{key.Public()}, Stall: stall})
			if f, err := two.Find(t.Context(), to, "port lib amd64", k); err != nil || f == nil || f.Place != spare.String() {
				t.Errorf("with a second place: %+v, %v", f, err)
			}
		})
	}
}

func TestFindEnds(t *testing.T) {
	key := newKey(t)
	from := newStore(t)
	p := openDir(t, t.TempDir())
	k := step(t, from, "port lib amd64", "1", map[string]string{"apk lib": "library"})
	keep(t, p, key, from, k)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	c := New(Options{Places: []Place{p}, Trusted: []signature.Key{key.Public()}, Tell: func(tr Trouble) { t.Errorf("%+v", tr) }})
	if f, err := c.Find(ctx, newStore(t), "port lib amd64", k); !errors.Is(err, why) {
		t.Errorf("%+v, %v", f, err)
	}
	// A store that takes nothing is no fault of the place's.
	broken := newStore(t)
	if err := os.RemoveAll(filepath.Join(broken.Dir(), "tmp")); err != nil {
		t.Fatal(err)
	}
	if f, err := c.Find(t.Context(), broken, "port lib amd64", k); f != nil || fault.ClassOf(err) != fault.Environment {
		t.Errorf("%+v, %v", f, err)
	}
}

// A mistyped directory is told of; the one that is pushed to is made.
func TestNoDirectory(t *testing.T) {
	key, st := newKey(t), newStore(t)
	k := step(t, st, "port lib amd64", "1", map[string]string{"apk lib": "library"})
	p := openDir(t, filepath.Join(t.TempDir(), "nothing"))
	var told []Trouble
	tell := func(tr Trouble) { told = append(told, tr) }
	if f, err := New(Options{Places: []Place{p}, Tell: tell}).Find(t.Context(), st, "port lib amd64", k); f != nil || err != nil {
		t.Errorf("%+v, %v", f, err)
	}
	if len(told) != 1 || told[0].Step != "" || told[0].Reason != "there is no such directory" {
		t.Errorf("told %+v", told)
	}
	told = nil
	c := New(Options{Places: []Place{p}, Push: p, Key: key, Trusted: []signature.Key{key.Public()}, Tell: tell})
	if f, err := c.Find(t.Context(), st, "port lib amd64", k); f != nil || err != nil {
		t.Errorf("%+v, %v", f, err)
	}
	a, _, err := st.Action(k)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := c.Keep(t.Context(), st, k, a); n != 7 || err != nil || len(told) != 0 || c.Lost() != nil {
		t.Errorf("%d, %v, %+v, %v", n, err, told, c.Lost())
	}
}

// A push that fails is told of and remembered, and what others have signed is
// replaced by nothing but a good entry.
func TestPushFails(t *testing.T) {
	key, st := newKey(t), newStore(t)
	k := step(t, st, "port lib amd64", "1", map[string]string{"apk lib": "library"})
	a, _, err := st.Action(k)
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t)
	s.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			return false
		}
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	var told []Trouble
	c := New(Options{Push: s.place(t), Key: key, Trusted: []signature.Key{key.Public()}, Tell: func(tr Trouble) { told = append(told, tr) }})
	for range 2 {
		if n, err := c.Keep(t.Context(), st, k, a); n != 0 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if len(told) != 1 || told[0].Step != "" || fault.ClassOf(c.Lost()) != fault.Source || !strings.Contains(c.Lost().Error(), "port lib amd64 was not pushed") {
		t.Errorf("told %+v, lost %v", told, c.Lost())
	}
}

// What a place gives is read by Parse first.
func FuzzParse(f *testing.F) {
	key, err := signature.NewKey()
	if err != nil {
		f.Fatal(err)
	}
	inputs := map[string]string{"arch": "x86"}
	text, err := json.Marshal(inputs)
	if err != nil {
		f.Fatal(err)
	}
	e := &Entry{Schema: Schema, Key: store.Key(text), Step: "port lib amd64", Inputs: inputs, Outputs: map[string]Output{"apk lib": {store.FromBytes([]byte("x")), 1}}}
	signed, err := e.Sign(key)
	if err != nil {
		f.Fatal(err)
	}
	_, plain := signature.CutNote(signed)
	f.Add(signed, false)
	f.Add(plain, true)
	f.Add([]byte(`{"schema":1,"key":"","step":"","inputs":null,"outputs":{"a":{"digest":"sha256:0","size":-1}}}`), true)
	f.Fuzz(func(t *testing.T, text []byte, sign bool) {
		if sign { // so that what stands behind the signature is read too
			note, err := signature.SignNote(key, kind, text)
			if err != nil {
				t.Fatal(err)
			}
			text = append(note, text...)
		}
		got, by, err := Parse(text, e.Key, []signature.Key{key.Public()})
		if err != nil {
			if fault.ClassOf(err) != fault.Verification {
				t.Errorf("%v", err)
			}
			return
		}
		if again, err := got.Sign(key); by != key.Public() || err != nil || !bytes.Equal(again, text) {
			t.Errorf("%q was taken, and is written %q, %v", text, again, err)
		}
	})
}
