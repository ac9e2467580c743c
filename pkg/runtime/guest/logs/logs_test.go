package logs

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestTailAndFile(t *testing.T) {
	l := New()
	path := t.TempDir() + "/s.log"
	fmt.Fprintln(l, "before the disk")
	if err := l.OpenFile(path, MaxFile); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(l, "after")
	want := "before the disk\nafter\n"
	if err := l.Close(time.Minute); err != nil {
		t.Error(err)
	}
	if b, err := io.ReadAll(l.Reader(t.Context(), false)); err != nil || string(b) != want {
		t.Errorf("tail: got %q, %v", b, err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		t.Errorf("file: got %q, %v", b, err)
	}
}

func TestRotation(t *testing.T) {
	l := New()
	const most = 1 << 20
	path := t.TempDir() + "/s.log"
	if err := l.OpenFile(path, most); err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 99<<10) + "\n"
	for range 100 {
		fmt.Fprint(l, line)
	}
	if err := l.Close(time.Minute); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, path + ".1"} {
		if i, err := os.Stat(p); err != nil || i.Size() > most+64<<10 {
			t.Errorf("%s: %v, %v", p, i, err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil || !strings.HasSuffix(string(b), "x\n") {
		t.Errorf("the end is missing: %v", err)
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
	if err := l.Close(0); err != nil {
		t.Error(err)
	}
	if b, err := io.ReadAll(l.Reader(t.Context(), true)); err != nil || string(b) != "one\ntwo\ntwo\n" {
		t.Errorf("closed log: got %q, %v", b, err)
	}
}

// A reader that is too slow is told what it has missed, where it is missing.
func TestSlowReader(t *testing.T) {
	for _, follow := range []bool{false, true} {
		l := New()
		if _, err := l.Write([]byte("begin")); err != nil {
			t.Fatal(err)
		}
		r := l.Reader(t.Context(), follow)
		if b, err := io.ReadAll(io.LimitReader(r, 4)); err != nil || string(b) != "begi" {
			t.Fatalf("got %q, %v", b, err)
		}
		fmt.Fprintln(l, "n again")
		total := len("beginn again\n")
		line := strings.Repeat("x", 1023) + "\n"
		for range 3 * keep / len(line) {
			fmt.Fprint(l, line)
			total += len(line)
		}
		if err := l.Close(0); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(iotest.OneByteReader(r))
		if err != nil {
			t.Fatal(err)
		}
		if !follow { // nothing of what was there then is left
			if string(rest) != "\n[1 bytes of the log are missing here: its reader was too slow]\n" {
				t.Errorf("got %.100q", rest)
			}
			continue
		}
		before, after, ok := strings.Cut(string(rest), "\n[")
		missing := 0
		if n, err := fmt.Sscanf(after, "%d bytes of the log are missing here: its reader was too slow]\n", &missing); !ok || before != "" || n != 1 {
			t.Fatalf("got %.100q, %v", rest, err)
		}
		_, after, _ = strings.Cut(after, "\n")
		if 4+missing+len(after) != total || !strings.HasSuffix(after, line) {
			t.Errorf("%d read, %d missing and %d read of %d bytes", 4, missing, len(after), total)
		}
	}
}

// A disk that takes nothing holds nobody up, and is tried again.
func TestFileThatFails(t *testing.T) {
	l := New()
	dir := t.TempDir()
	path := dir + "/s.log"
	if err := l.OpenFile(path, 10); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path+".1", 0o755); err != nil { // the rotation fails
		t.Fatal(err)
	}
	fmt.Fprintln(l, "more than ten bytes")
	wait := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v", what, l.FileError())
			}
		}
	}
	wait("failure", func() bool { return l.FileError() != nil })
	if err := os.Remove(path + ".1"); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(l, "and again")
	wait("recovery", func() bool { _, err := os.Stat(path + ".1"); return err == nil && l.FileError() == nil })
	if err := l.Close(time.Minute); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(path + ".1"); err != nil || string(b) != "more than ten bytes\nand again\n" {
		t.Errorf("got %q, %v", b, err)
	}
}
