package store

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// filled is a store with three inputs, one of them made by an action that is
// an input, and an output of a step.
func filled(t testing.TB) (*Store, Contents) {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	put := func(text string) Digest {
		d, _, err := s.Put(t.Context(), strings.NewReader(text), "")
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	c := Contents{Actions: map[string]Action{}}
	c.Blobs = append(c.Blobs, Blob{Name: "zlib 1.3", Digest: put(strings.Repeat("zlib", 1000))}, Blob{Name: "empty", Digest: put("")}, Blob{Name: "modules", Digest: put("a tar")})
	for text, output := range map[string]Digest{`{"format":"input"}`: c.Blobs[2].Digest, `{"format":"step"}`: put("kernel")} {
		a := Action{Name: text, Description: json.RawMessage(text), Outputs: map[string]Digest{"tar": output}}
		if err := s.PutAction(Key([]byte(text)), a); err != nil {
			t.Fatal(err)
		}
		if isInput(a) {
			c.Actions[Key([]byte(text))] = a
		}
	}
	return s, c
}

func isInput(a Action) bool { return strings.Contains(string(a.Description), "input") }

func export(t testing.TB, s *Store, c Contents) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := s.Export(t.Context(), &b, c, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestExportImport(t *testing.T) {
	s, c := filled(t)
	archive := export(t, s, c)
	slices.Reverse(c.Blobs)
	c.Blobs = append(c.Blobs, c.Blobs[1])
	if !bytes.Equal(archive, export(t, s, c)) {
		t.Error("the order of the blobs shows in the archive")
	}
	all, err := s.Inputs(isInput)
	if err != nil {
		t.Fatal(err)
	}
	if len(all.Blobs) != 3 || len(all.Actions) != 1 {
		t.Errorf("inputs of the store: %+v", all)
	}

	to := open(t)
	var said []string
	got, err := to.Import(t.Context(), bytes.NewReader(archive), isInput, func(b Blob, n, of int) { said = append(said, fmt.Sprintf("%s %d/%d", b.Name, n, of)) })
	if err != nil {
		t.Fatal(err)
	}
	if got != (Transfer{Blobs: 3, Bytes: 4005}) || len(said) != 3 {
		t.Errorf("%+v, %q", got, said)
	}
	for key, a := range c.Actions {
		if has, ok, err := to.Action(key); !ok || err != nil || has.Name != a.Name {
			t.Errorf("action %s: %v, %v", key, ok, err)
		}
	}
	if !bytes.Equal(archive, export(t, to, c)) {
		t.Error("exported again, the archive is another")
	}
	// A second time, everything is there; the reader need not seek.
	got, err = to.Import(t.Context(), io.MultiReader(bytes.NewReader(archive)), isInput, nil)
	if err != nil || got.Present != 3 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestExportErrors(t *testing.T) {
	s, c := filled(t)
	gone := c
	gone.Blobs = append(slices.Clone(c.Blobs), Blob{Name: "linux 6.12", Digest: abcDigest})
	if _, err := s.Export(t.Context(), io.Discard, gone, nil); fault.ClassOf(err) != fault.Source || !strings.Contains(err.Error(), "linux 6.12") {
		t.Errorf("got %v", err)
	}
	path := s.Path(c.Blobs[0].Digest)
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte("ZLIB"), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Export(t.Context(), io.Discard, c, nil); fault.ClassOf(err) != fault.Verification {
		t.Errorf("a damaged blob: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Export(ctx, io.Discard, c, nil); fault.ClassOf(err) != fault.Cancelled {
		t.Errorf("got %v", err)
	}
}

// An import that is cut short keeps what is whole, and goes on from there.
func TestImportResumes(t *testing.T) {
	s, c := filled(t)
	archive := export(t, s, c)
	to := open(t)
	for n := 0; n < len(archive)-1024; n += 300 {
		_, err := to.Import(t.Context(), bytes.NewReader(archive[:n]), isInput, nil)
		if fault.ClassOf(err) != fault.Source {
			t.Fatalf("cut at %d: %v", n, err)
		}
		for _, b := range c.Blobs {
			if f, err := to.Open(b.Digest); err == nil {
				data, err := io.ReadAll(f)
				f.Close()
				if err != nil || FromBytes(data) != b.Digest {
					t.Fatalf("cut at %d: %s is wrong", n, b.Name)
				}
			}
		}
		if left := temps(t, to); len(left) != 0 {
			t.Fatalf("cut at %d: left %v", n, left)
		}
	}
	got, err := to.Import(t.Context(), bytes.NewReader(archive), isInput, nil)
	if err != nil || got.Present < 2 {
		t.Errorf("%+v, %v", got, err)
	}
}

// rewrite changes an archive's members.
func rewrite(t testing.TB, archive []byte, change func(h *tar.Header, b []byte) []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	tr, tw := tar.NewReader(bytes.NewReader(archive)), tar.NewWriter(&out)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		b = change(h, b)
		h.Size = int64(len(b))
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestImportErrors(t *testing.T) {
	s, c := filled(t)
	archive := export(t, s, c)
	list := func(change func(c *contents)) []byte {
		return rewrite(t, archive, func(h *tar.Header, b []byte) []byte {
			if h.Name != contentsFile {
				return b
			}
			var l contents
			if err := json.Unmarshal(b, &l); err != nil {
				t.Fatal(err)
			}
			change(&l)
			b, err := json.Marshal(l)
			if err != nil {
				t.Fatal(err)
			}
			return b
		})
	}
	for name, tt := range map[string]struct {
		archive []byte
		allow   func(Action) bool
		class   fault.Class
		want    string
	}{
		"no archive": {[]byte(strings.Repeat("hello\n", 400)), isInput, fault.Source, "not an archive"},
		"empty":      {nil, isInput, fault.Source, "not an archive"},
		"other tar":  {archive[2048:], isInput, fault.Source, "not an archive"},
		"wrong bytes": {rewrite(t, archive, func(h *tar.Header, b []byte) []byte {
			if len(b) == 4000 {
				b[17] ^= 1
			}
			return b
		}), isInput, fault.Verification, "zlib 1.3: blob: wrong digest"},
		"another name": {rewrite(t, archive, func(h *tar.Header, b []byte) []byte {
			if h.Name != contentsFile {
				h.Name = "blobs/sha256/../../actions/x"
			}
			return b
		}), isInput, fault.Source, "expected blobs/sha256/"},
		"longer": {rewrite(t, archive, func(h *tar.Header, b []byte) []byte {
			if h.Name != contentsFile {
				b = append(b, 1)
			}
			return b
		}), isInput, fault.Source, "expected blobs/sha256/"},
		"a step's output": {archive, func(Action) bool { return false }, fault.Verification, "which an archive must not"},
		"other key": {list(func(c *contents) {
			for _, a := range c.Actions {
				c.Actions = map[string]Action{strings.Repeat("0", 64): a}
			}
		}), isInput, fault.Source, "is not the digest of its description"},
		"output not there": {list(func(c *contents) {
			for key, a := range c.Actions {
				a.Outputs = map[string]Digest{"tar": abcDigest}
				c.Actions[key] = a
			}
		}), isInput, fault.Source, "is not among the blobs"},
		"twice":        {list(func(c *contents) { c.Blobs = append(c.Blobs[:1], c.Blobs...) }), isInput, fault.Source, "is not sorted"},
		"other schema": {list(func(c *contents) { c.Schema = 2 }), isInput, fault.Source, "schema 2 is not 1"},
	} {
		t.Run(name, func(t *testing.T) {
			to := open(t)
			_, err := to.Import(t.Context(), bytes.NewReader(tt.archive), tt.allow, nil)
			if err == nil || fault.ClassOf(err) != tt.class || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v (class %d), want %q (class %d)", err, fault.ClassOf(err), tt.want, tt.class)
			}
			if actions, err := os.ReadDir(to.dir + "/actions"); err != nil || len(actions) != 0 {
				t.Errorf("actions were taken: %v %v", actions, err)
			}
		})
	}
}

// FuzzImport imports any bytes: the store then holds right blobs only.
func FuzzImport(f *testing.F) {
	s, c := filled(f)
	archive := export(f, s, c)
	f.Add(archive)
	f.Add(archive[:2000])
	f.Add([]byte("contents.json"))
	f.Fuzz(func(t *testing.T, data []byte) {
		to := open(t)
		if _, err := to.Import(t.Context(), bytes.NewReader(data), isInput, nil); err != nil && fault.ClassOf(err) == fault.Internal {
			t.Errorf("an error without a class: %v", err)
		}
		err := to.walk("blobs/sha256", func(base string) error {
			file, err := to.Open(Digest(algorithm + base))
			if err != nil {
				return err
			}
			defer file.Close()
			b, err := io.ReadAll(file)
			if err == nil && FromBytes(b).Hex() != base {
				err = fmt.Errorf("%s holds other bytes", base)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}
