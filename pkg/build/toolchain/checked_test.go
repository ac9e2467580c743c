package toolchain

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// tiny makes a layout of an image with one file.
func tiny(t *testing.T) (dir string, l *layer) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "layout")
	l, err := newLayer(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err = w.WriteHeader(&tar.Header{Name: "./f", Mode: 0o644, Size: 4})
	if err == nil {
		_, err = w.Write([]byte("text"))
	}
	if err := errors.Join(err, w.Close(), l.copyFrom(&b), l.finish()); err != nil {
		t.Fatal(err)
	}
	if _, err := writeLayout(dir, l, "amd64", epoch); err != nil {
		t.Fatal(err)
	}
	return dir, l
}

// A layout whose files have their sizes and not their contents is not opened,
// so that it is made again; what was checked is not read again while it looks
// the same, for a day.
func TestDamagedLayout(t *testing.T) {
	dir, _ := tiny(t)
	open := func() error { _, err := openLayout(t.Context(), dir); return err }
	if err := open(); err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	if err != nil || len(blobs) != 3 {
		t.Fatalf("%v, %v", blobs, err)
	}
	for _, path := range blobs {
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		damaged := bytes.Clone(whole)
		damaged[len(damaged)-2] ^= 0x20
		for name, c := range map[string]struct {
			text []byte
			want bool
		}{"damaged": {damaged, false}, "whole": {whole, true}} {
			if err := os.WriteFile(path, c.text, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := open(); (err == nil) != c.want {
				t.Errorf("%s %s: %v", name, filepath.Base(path)[:8], err)
			}
		}
		if err := os.WriteFile(path, whole, 0o644); err != nil {
			t.Fatal(err)
		}
	}

	// What a disk does to a file leaves no trace in its times.
	if err := open(); err != nil {
		t.Fatal(err)
	}
	stamp := dir + ".checked"
	looks, err := os.ReadFile(stamp)
	if err != nil {
		t.Fatal(err)
	}
	if !believed(stamp, string(looks)) || believed(stamp, "others") {
		t.Error("what was checked just now is not believed")
	}
	for _, at := range []time.Time{time.Now().Add(-checkedFor - time.Hour), time.Now().Add(time.Hour)} {
		if err := os.Chtimes(stamp, at, at); err != nil {
			t.Fatal(err)
		}
		if believed(stamp, string(looks)) {
			t.Errorf("a check of %v is believed", at)
		}
	}
}

// A reader of the uncompressed layer ends its decoder with it.
func TestUncompressedCloses(t *testing.T) {
	_, l := tiny(t)
	r, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	// A closed decoder refuses to read on, an open one is at its end.
	if _, err := r.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the decoder lives: %v", err)
	}
	if _, err := openLayout(t.Context(), filepath.Join(t.TempDir(), "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no layout: %v", err)
	}
}
