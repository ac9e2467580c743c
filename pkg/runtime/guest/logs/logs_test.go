package logs

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

func TestTailAndFile(t *testing.T) {
	l := New()
	path := t.TempDir() + "/s.log"
	fmt.Fprintln(l, "before the disk")
	if err := l.OpenFile(path); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(l, "after")
	want := "before the disk\nafter\n"
	if b, err := io.ReadAll(l.Reader(t.Context(), false)); err != nil || string(b) != want {
		t.Errorf("tail: got %q, %v", b, err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		t.Errorf("file: got %q, %v", b, err)
	}
	if err := l.Close(); err != nil || l.FileError() != nil {
		t.Error(err, l.FileError())
	}
}

func TestRotation(t *testing.T) {
	l := New()
	path := t.TempDir() + "/s.log"
	if err := l.OpenFile(path); err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 99<<10) + "\n"
	for range 100 {
		fmt.Fprint(l, line)
	}
	if err := l.FileError(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, path + ".1"} {
		if i, err := os.Stat(p); err != nil || i.Size() > maxFile+int64(len(line)) {
			t.Errorf("%s: %v, %v", p, i, err)
		}
	}
	if b, _ := io.ReadAll(l.Reader(t.Context(), false)); len(b) < keep || len(b) > 2*keep {
		t.Errorf("kept %d bytes", len(b))
	}
}

func TestFollow(t *testing.T) {
	l := New()
	fmt.Fprintln(l, "one")
	ctx, cancel := context.WithCancel(t.Context())
	r := bufio.NewReader(l.Reader(ctx, true))
	for _, want := range []string{"one\n", "two\n"} {
		if got, err := r.ReadString('\n'); got != want {
			t.Fatalf("got %q, %v", got, err)
		}
		fmt.Fprintln(l, "two")
	}
	cancel()
	if _, err := io.ReadAll(r); err != nil {
		t.Errorf("after the end: %v", err)
	}
	l.Close()
	if b, err := io.ReadAll(l.Reader(t.Context(), true)); err != nil || string(b) != "one\ntwo\ntwo\n" {
		t.Errorf("closed log: got %q, %v", b, err)
	}
}
