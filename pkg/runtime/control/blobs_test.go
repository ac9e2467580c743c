package control

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func digestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func nowhere(context.Context, string) (string, error) { return "", nil }

func newBlobs(t testing.TB) *Blobs {
	t.Helper()
	b, err := NewBlobs(filepath.Join(t.TempDir(), "blobs"), nowhere)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func blobHandler(b *Blobs) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("HEAD /v1/blobs/{digest}", func(w http.ResponseWriter, r *http.Request) { b.Head(w, r, r.PathValue("digest")) })
	mux.HandleFunc("PUT /v1/blobs/{digest}", func(w http.ResponseWriter, r *http.Request) { b.Put(w, r, r.PathValue("digest")) })
	mux.HandleFunc("POST /v1/blobs/{digest}/chunks", func(w http.ResponseWriter, r *http.Request) { b.Chunks(w, r, r.PathValue("digest")) })
	return mux
}

func blobSession(t testing.TB, b *Blobs) *Session {
	t.Helper()
	s, err := pair(t, NewHello(""), NewHello(""), blobHandler(b))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// checkBlob sees whether exactly that is there, and nothing else.
func checkBlob(t *testing.T, b *Blobs, text string) {
	t.Helper()
	f, err := b.Open(t.Context(), digestOf(text))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := io.ReadAll(f)
	if err != nil || string(got) != text {
		t.Errorf("%d bytes of %d, %v", len(got), len(text), err)
	}
	entries, err := os.ReadDir(b.dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("in the directory: %v, %v", entries, err)
	}
}

func TestBlob(t *testing.T) {
	for _, text := range []string{"", "x", strings.Repeat("0123456789", 200_000)} {
		b := newBlobs(t)
		s := blobSession(t, b)
		if whole, offset, err := s.HasBlob(t.Context(), digestOf(text)); whole || offset != 0 || err != nil {
			t.Fatalf("before: %v, %d, %v", whole, offset, err)
		}
		for range 2 { // once more is no error
			if err := s.PutBlob(t.Context(), digestOf(text), int64(len(text)), 0, strings.NewReader(text)); err != nil {
				t.Fatal(err)
			}
		}
		checkBlob(t, b, text)
		if whole, _, err := s.HasBlob(t.Context(), digestOf(text)); !whole || err != nil {
			t.Errorf("after: %v, %v", whole, err)
		}
		if err := b.Drop(t.Context(), digestOf(text), digestOf("absent")); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Open(t.Context(), digestOf(text)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("dropped: %v", err)
		}
	}
}

// A connection that breaks after any number of bytes: the next goes on there.
func TestBlobBroken(t *testing.T) {
	text := strings.Repeat("0123456789abcdef", 64<<10) // 1 MiB
	b := newBlobs(t)
	breaks, sent := 0, int64(0)
	for limit := int64(10_000); ; limit += 30_000 {
		client, server := net.Pipe()
		served := make(chan error, 1)
		go func() { served <- Serve(t.Context(), server, NewHello(""), blobHandler(b)) }()
		s, err := Dial(t.Context(), &cut{Conn: client, left: limit}, NewHello(""))
		if err != nil {
			t.Fatal(err)
		}
		whole, offset, err := s.HasBlob(t.Context(), digestOf(text))
		if err == nil && !whole {
			if offset < sent {
				t.Fatalf("%d bytes are there, and %d were", offset, sent)
			}
			sent = offset
			err = s.PutBlob(t.Context(), digestOf(text), int64(len(text)), offset, strings.NewReader(text))
		}
		s.Close()
		<-served
		if err == nil {
			break
		}
		if !errors.Is(err, ErrLost) || fault.ClassOf(err) != fault.Device {
			t.Fatalf("got %v", err)
		}
		breaks++
	}
	if breaks < 3 || sent == 0 {
		t.Errorf("it broke %d times, and went on at %d", breaks, sent)
	}
	checkBlob(t, b, text)
}

// cut breaks after some bytes were written.
type cut struct {
	net.Conn
	mu   sync.Mutex
	left int64
}

func (c *cut) Write(b []byte) (int, error) {
	c.mu.Lock()
	part := b[:min(int64(len(b)), c.left)]
	c.left -= int64(len(part))
	c.mu.Unlock()
	n, err := c.Conn.Write(part)
	if err == nil && len(part) < len(b) {
		c.Conn.Close()
		err = io.ErrClosedPipe
	}
	return n, err
}

// Parts in ranges, out of order, of a wrong length, and with a wrong sum.
func TestBlobRanges(t *testing.T) {
	b := newBlobs(t)
	h := blobHandler(b)
	put := func(digest, span, body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/v1/blobs/"+digest, strings.NewReader(body))
		r.Header.Set("Content-Range", span)
		h.ServeHTTP(&deadlines{ResponseRecorder: w}, r)
		return w
	}
	d := digestOf("0123456789")
	for _, c := range []struct {
		span, body string
		status     int
		offset     string
	}{
		{"bytes 4-9/10", "456789", http.StatusConflict, "0"},
		{"bytes 0-3/10", "0123", http.StatusAccepted, "4"},
		{"bytes 0-3/10", "0123", http.StatusAccepted, "4"}, // from the beginning is always right
		{"bytes 5-9/10", "56789", http.StatusConflict, "4"},
		{"bytes 4-6/10", "45", http.StatusBadRequest, ""},
		{"", "456789", http.StatusBadRequest, ""},
		{"bytes 4-9/10", "45678x", http.StatusUnprocessableEntity, ""},
		{"bytes 4-9/10", "456789", http.StatusConflict, "0"}, // what was wrong is gone
		{"bytes 0-8/10", "012345678", http.StatusAccepted, "9"},
		{"bytes 9-9/10", "9", http.StatusCreated, ""},
		{"bytes 0-0/10", "0", http.StatusNoContent, ""},
	} {
		w := put(d, c.span, c.body)
		if w.Code != c.status || w.Header().Get(offsetHeader) != c.offset {
			t.Errorf("%s %q: got %d, offset %q: %s", c.span, c.body, w.Code, w.Header().Get(offsetHeader), w.Body)
		}
	}
	checkBlob(t, b, "0123456789")
	if w := put("sha256:../../etc/passwd", "bytes 0-0/1", "x"); w.Code == http.StatusCreated {
		t.Errorf("got %d", w.Code)
	}
	if w := put(d[:len(d)-1]+"G", "bytes 0-0/1", "x"); w.Code != http.StatusBadRequest {
		t.Errorf("got %d", w.Code)
	}
	if w := put(digestOf("large"), "bytes 0-0/999999999999999999", "x"); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "larger than") {
		t.Errorf("got %d: %s", w.Code, w.Body)
	}
}

// deadlines makes a recorder take them.
type deadlines struct{ *httptest.ResponseRecorder }

func (*deadlines) SetReadDeadline(time.Time) error { return nil }

// A disk that is full before a blob or becomes so within it: nothing of it
// stays, and the words say whose disk.
func TestBlobFull(t *testing.T) {
	b := newBlobs(t)
	s := blobSession(t, b)
	free := int64(blobReserve + 9)
	b.room = func(string) (int64, error) { return free, nil }
	err := s.PutBlob(t.Context(), digestOf("0123456789"), 10, 0, strings.NewReader("0123456789"))
	if fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "the file system of "+b.dir+" is full: 64 MiB are free") || fault.HintOf(err) == "" {
		t.Errorf("before: %v", err)
	}
	free++
	text := strings.Repeat("x", 1<<20)
	var limit, old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	free = 1 << 40
	limit = old
	limit.Cur = 300_000
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	// A file that may not grow: EFBIG stands for any error of the disk.
	err = s.PutBlob(t.Context(), digestOf(text), int64(len(text)), 0, strings.NewReader(text))
	if resetErr := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); resetErr != nil {
		t.Fatal(resetErr)
	}
	if fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), b.dir) {
		t.Errorf("within: %v", err)
	}
	// What is there of it is gone on from.
	whole, offset, err := s.HasBlob(t.Context(), digestOf(text))
	if whole || offset != 300_000 && offset != 0 || err != nil {
		t.Errorf("left: %v, %d, %v", whole, offset, err)
	}
	if err := s.PutBlob(t.Context(), digestOf(text), int64(len(text)), offset, strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	checkBlob(t, b, text)
}

// On a file system that is really full nothing is left.
func TestBlobFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("a file system of its own needs root:", err)
	}
	defer unix.Unmount(dir, 0) //nolint:errcheck // the test's end
	b, err := NewBlobs(filepath.Join(dir, "blobs"), nowhere)
	if err != nil {
		t.Fatal(err)
	}
	b.room = func(string) (int64, error) { return 1 << 40, nil } // somebody else takes it
	s := blobSession(t, b)
	text := strings.Repeat("x", 2<<20)
	err = s.PutBlob(t.Context(), digestOf(text), int64(len(text)), 0, strings.NewReader(text))
	if fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "the file system of "+b.dir+" is full, and") {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(b.dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// What nobody has used or added to for a day is swept, and no more are taken
// than have a place.
func TestBlobSweep(t *testing.T) {
	b := newBlobs(t)
	s := blobSession(t, b)
	old := time.Now().Add(-BlobAge - time.Minute)
	write := func(name string, when time.Time) {
		t.Helper()
		path := filepath.Join(b.dir, name)
		if err := errors.Join(os.WriteFile(path, []byte("x"), 0o600), os.Chtimes(path, when, when)); err != nil {
			t.Fatal(err)
		}
	}
	file := func(text string) string { return strings.Replace(digestOf(text), ":", "-", 1) }
	write(file("old"), old)
	write(file("old part")+partSuffix, old)
	write("of somebody else", time.Now())
	write(file("new part")+partSuffix, time.Now())
	if left, err := b.Sweep(time.Now()); left != 1 || err != nil {
		t.Errorf("left: %d, %v", left, err)
	}
	for n := range maxBlobs - 1 {
		write(file(strings.Repeat("n", n)), time.Now())
	}
	err := s.PutBlob(t.Context(), digestOf("abc"), 3, 0, strings.NewReader("abc"))
	if fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "130 blobs wait") {
		t.Errorf("got %v", err)
	}
}

// Several senders of one blob: each is done, and it is there once.
func TestBlobTwice(t *testing.T) {
	b := newBlobs(t)
	text := strings.Repeat("0123456789", 100_000)
	var all sync.WaitGroup
	for range 4 {
		s := blobSession(t, b)
		all.Go(func() {
			for {
				whole, offset, err := s.HasBlob(t.Context(), digestOf(text))
				if err == nil && whole {
					return
				}
				if err == nil {
					err = s.PutBlob(t.Context(), digestOf(text), int64(len(text)), offset, strings.NewReader(text))
				}
				if err != nil && !errors.Is(err, ErrLost) && !errors.Is(err, ErrOffset) {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	checkBlob(t, b, text)
}

// A file that cannot be read at the sender is the sender's fault.
func TestBlobUnreadable(t *testing.T) {
	s := blobSession(t, newBlobs(t))
	bad := errors.New("input/output error")
	err := s.PutBlob(t.Context(), digestOf("abc"), 3, 0, unreadable{bad})
	if !errors.Is(err, bad) || fault.ClassOf(err) != fault.Environment || !strings.HasPrefix(err.Error(), "reading the blob") {
		t.Errorf("got %v", err)
	}
}

type unreadable struct{ err error }

func (b unreadable) ReadAt([]byte, int64) (int, error) { return 0, b.err }

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 0-9/20", "bytes */0", "bytes 5-4/9", "bytes -1-2/3", "bytes 0-18446744073709551615/18446744073709551616", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseRange(s)
		if err == nil && (r.start < 0 || r.end < r.start || r.end > r.total || r.total > 0 && r.start == r.end) {
			t.Errorf("%q: %+v", s, r)
		}
	})
}

// BenchmarkBlob sends 256 MiB over a unix socket into a file, verified, both
// ends in this process. What both cost together in time on a CPU says more than
// the rate, where others work on the machine.
func BenchmarkBlob(b *testing.B) {
	text := bytes.Repeat([]byte("0123456789abcdef"), 16<<20)
	sum := sha256.Sum256(text)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	blobs := newBlobs(b)
	s := unixSession(b, blobHandler(blobs))
	b.SetBytes(int64(len(text)))
	begin := onCPU(b)
	for b.Loop() {
		if err := s.PutBlob(b.Context(), digest, int64(len(text)), 0, bytes.NewReader(text)); err != nil {
			b.Fatal(err)
		}
		if err := blobs.Drop(b.Context(), digest); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(onCPU(b)-begin)/float64(b.N*len(text)), "cpu-ns/B")
}

// unixSession is a session over a unix socket.
func unixSession(b *testing.B, h http.Handler) *Session {
	b.Helper()
	l, err := net.Listen("unix", b.TempDir()+"/s")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	server, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	go Serve(b.Context(), server, NewHello(""), h) //nolint:errcheck // ends with the connection
	s, err := Dial(b.Context(), client, NewHello(""))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

// onCPU is this process's time on a CPU.
func onCPU(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
