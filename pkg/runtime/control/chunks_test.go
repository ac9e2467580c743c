package control

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// noise is content that nothing compresses, and that is the same every time.
func noise(seed uint64, n int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b) //nolint:errcheck // it never fails
	return b
}

// newSeeds is blobs with these files as seeds.
func newSeeds(t testing.TB, seeds ...[]byte) *Blobs {
	t.Helper()
	b := newBlobs(t)
	var paths []string
	for n, seed := range seeds {
		path := filepath.Join(t.TempDir(), "seed"+strconv.Itoa(n))
		if err := os.WriteFile(path, seed, 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	b.Seeds = func(_ context.Context, name string) ([]string, error) {
		if name != "root.img" {
			return nil, nil
		}
		return paths, nil
	}
	return b
}

func sendAll(t testing.TB, s *Session, data []byte, plan bool) (ChunkPlan, int64, error) {
	t.Helper()
	return s.PutChunks(t.Context(), digestOf(string(data)), "root.img", int64(len(data)), bytes.NewReader(data), plan)
}

func left(t *testing.T, b *Blobs) []string {
	t.Helper()
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// What was changed, put in and moved travels, and not what is as it was.
func TestChunks(t *testing.T) {
	old := noise(1, 4<<20)
	next := bytes.Join([][]byte{old[:1<<20], noise(2, 5000), old[1<<20 : 2<<20], old[2<<20+7777:], old[:300_000]}, nil)
	next[3<<20] ^= 1
	b := newSeeds(t, old, noise(9, 1<<20))
	s := blobSession(t, b)
	plan, packed, err := sendAll(t, s, next, true)
	if err != nil || plan.Whole || plan.Missing == 0 || plan.Bytes > 600_000 || plan.Chunks < 200 {
		t.Fatalf("%+v, %v", plan, err)
	}
	if l := left(t, b); len(l) != 0 {
		t.Errorf("a plan has left %v", l)
	}
	if most := int64(plan.Chunks*(chunkNameSize+3) + 3); packed > most {
		t.Errorf("a plan takes %d bytes, and not %d", packed, most)
	}
	done, packed, err := sendAll(t, s, next, false)
	if err != nil || done != plan {
		t.Fatalf("%+v, %v; the plan was %+v", done, err, plan)
	}
	if most := plan.Bytes + int64(plan.Chunks*(chunkNameSize+3)) + 1000; packed > most {
		t.Errorf("%d bytes went out, and not %d", packed, most)
	}
	checkBlob(t, b, string(next))
	if again, _, err := sendAll(t, s, next, false); err != nil || !again.Whole {
		t.Errorf("again: %+v, %v", again, err)
	}
}

// Without a seed all of it travels, compressed.
func TestChunksFirst(t *testing.T) {
	text := []byte(strings.Repeat("0123456789abcdef", 64<<10) + string(noise(3, 1<<20)))
	b := newBlobs(t)
	plan, packed, err := sendAll(t, blobSession(t, b), text, false)
	if err != nil || plan.Bytes != int64(len(text)) || packed > 1<<20+100_000 {
		t.Errorf("%+v, %d bytes, %v", plan, packed, err)
	}
	checkBlob(t, b, string(text))
}

// A link that breaks at 50 random points, of a redeployment and of a first one:
// what had arrived is not sent again, and in the end it is there, once.
func TestChunksBroken(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	old := noise(1, 512<<10)
	next := bytes.Join([][]byte{old[:300_000], noise(2, 200_000), old[300_000:]}, nil)
	for what, seeds := range map[string][][]byte{"over another": {old}, "the first": nil} {
		_, all, err := sendAll(t, blobSession(t, newSeeds(t, seeds...)), next, false)
		if err != nil {
			t.Fatal(err)
		}
		breaks := 0
		for n := 0; n < 25; n++ {
			b := newSeeds(t, seeds...)
			lacks := int64(len(next)) + 1
			for first := true; ; first = false {
				limit := rnd.Int64N(all + 2000)
				if !first {
					limit += 50_000 // and it gets on
				}
				client, server := net.Pipe()
				served := make(chan error, 1)
				go func() { served <- Serve(t.Context(), server, NewHello(""), blobHandler(b)) }()
				var plan ChunkPlan
				s, err := Dial(t.Context(), &cut{Conn: client, left: limit}, NewHello(""))
				if err == nil {
					plan, _, err = sendAll(t, s, next, false)
					s.Close()
				}
				<-served
				if plan.Chunks > 0 && plan.Bytes > lacks {
					t.Fatalf("%s: %d bytes were missing, and now %d", what, lacks, plan.Bytes)
				}
				if plan.Chunks > 0 {
					lacks = plan.Bytes
				}
				if err == nil {
					break
				}
				if fault.ClassOf(err) != fault.Device {
					t.Fatalf("%s: %v", what, err)
				}
				breaks++
			}
			checkBlob(t, b, string(next))
		}
		t.Logf("%s: %d bytes in all, %d breaks", what, all, breaks)
		if breaks < 20 {
			t.Errorf("%s: it broke only %d times", what, breaks)
		}
	}
}

// talk is a sender that says what it likes.
func talk(t *testing.T, b *Blobs, digest, query string, words ...[]byte) (string, error) {
	t.Helper()
	s := blobSession(t, b)
	stream, err := s.Upgrade(t.Context(), blobPath(digest)+"/chunks?"+query)
	if err != nil {
		return "", err
	}
	defer stream.Close()
	for _, w := range words {
		if _, err := stream.Write(w); err != nil {
			break // the answer says why
		}
	}
	if err := stream.CloseWrite(); err != nil {
		return "", err
	}
	answer, _ := io.ReadAll(stream)
	return string(answer), nil
}

func pack(t *testing.T, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

// Senders that say what is not so: an error that says what, and nothing stays
// that could be taken for the blob.
func TestChunksHostile(t *testing.T) {
	data := noise(1, 200_000)
	digest := digestOf(string(data))
	var list []chunk
	if err := cutChunks(bytes.NewReader(data), int64(len(data)), func(c chunk) error { list = append(list, c); return nil }); err != nil {
		t.Fatal(err)
	}
	good := appendChunks(nil, list)
	otherSize := append([]chunk(nil), list...)
	otherSize[0].size--
	large := []chunk{{size: len(data)}}
	size := "size=" + strconv.Itoa(len(data))
	varint := func(n uint64) []byte { return binary.AppendUvarint(nil, n) }
	for what, c := range map[string]struct {
		query string
		words [][]byte
		want  string
	}{
		"nothing":            {size, nil, "unexpected EOF"},
		"no list":            {size, [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n")}, "unexpected EOF"},
		"half a list":        {size, [][]byte{good[:len(good)/2]}, "unexpected EOF"},
		"too many chunks":    {size, [][]byte{varint(maxChunks + 1)}, "chunks of a blob of 200000 bytes"},
		"very many":          {size, [][]byte{varint(1 << 63)}, "chunks of a blob of 200000 bytes"},
		"more than bytes":    {"size=3", [][]byte{varint(4)}, "4 chunks of a blob of 3 bytes"},
		"a varint too long":  {size, [][]byte{bytes.Repeat([]byte{0xff}, 20)}, "overflows"},
		"too few bytes":      {size, [][]byte{appendChunks(nil, otherSize)}, "the chunks have 199999 bytes"},
		"a large chunk":      {size, [][]byte{appendChunks(nil, large)}, "a chunk of 200000 bytes at 0"},
		"no chunks":          {size, [][]byte{good}, "unexpected EOF"},
		"no zstd":            {size, [][]byte{good, bytes.Repeat([]byte("x"), 1000)}, "magic"},
		"half of them":       {size, [][]byte{good, pack(t, data)[:50_000]}, "unexpected EOF"},
		"fewer":              {size, [][]byte{good, pack(t, data[:50_000])}, "unexpected EOF"},
		"others":             {size, [][]byte{good, pack(t, noise(2, len(data)))}, "is not what it was said to be"},
		"more":               {size, [][]byte{good, pack(t, append(append([]byte(nil), data...), 1))}, "something follows the chunks"},
		"of no size":         {"size=0", nil, "want"},
		"of a size too much": {"size=999999999999999", nil, "want"},
		"of a wrong plan":    {size + "&plan=perhaps", nil, "want"},
	} {
		b := newBlobs(t)
		answer, err := talk(t, b, digest, c.query, c.words...)
		if c.want == "want" {
			if fault.ClassOf(err) != fault.Usage {
				t.Errorf("%s: %q, %v", what, answer, err)
			}
			continue
		}
		last := answer[strings.LastIndexByte(strings.TrimSuffix(answer, "\n"), '\n')+1:]
		if err != nil || !strings.Contains(last, `"error"`) || !strings.Contains(last, c.want) {
			t.Errorf("%s: %q, %v", what, last, err)
		}
		for _, name := range left(t, b) {
			if !strings.HasSuffix(name, chunkSuffix) {
				t.Errorf("%s: left %s", what, name)
			}
		}
	}
	// One that is good for another digest.
	b := newBlobs(t)
	wrong := digestOf("wrong")
	answer, err := talk(t, b, wrong, size, good, pack(t, data))
	if err != nil || !strings.Contains(answer, "what arrived is "+digest) || len(left(t, b)) != 0 {
		t.Errorf("%q, %v, left %v", answer, err, left(t, b))
	}
	// What unpacks to very much is not unpacked any further than it is wanted.
	bomb := pack(t, make([]byte, 64<<20))
	if answer, err := talk(t, newBlobs(t), digest, size, good, bomb); err != nil || !strings.Contains(answer, "is not what it was said to be") {
		t.Errorf("%q, %v", answer, err)
	}
	if _, err := talk(t, newBlobs(t), "sha256:../../etc/passwd", size); err == nil {
		t.Error("a digest that is none")
	}
}

// Receivers that say what is not so.
func TestChunksHostileReceiver(t *testing.T) {
	data := noise(1, 100_000)
	for what, answer := range map[string]string{
		"nothing":         "",
		"no JSON":         "hello\n",
		"a long line":     strings.Repeat("x", maxPlan+1) + "\n",
		"other chunks":    `{"chunks":1,"missing":1,"bytes":5}` + "\n" + strings.Repeat("\xff", 100),
		"more than named": `{"chunks":13,"missing":13,"bytes":5}` + "\n" + strings.Repeat("\x00", 100),
		"half a bitmap":   `{"chunks":13,"missing":13,"bytes":5}` + "\n\xff",
	} {
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s, err := Accept(w, r)
			if err != nil {
				return
			}
			defer s.Close()
			io.WriteString(s, answer) //nolint:errcheck // the other side tells
			s.CloseWrite()
		})
		s, err := pair(t, NewHello(""), NewHello(""), h)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := sendAll(t, s, data, false); fault.ClassOf(err) != fault.Device {
			t.Errorf("%s: %v", what, err)
		}
	}
	s := blobSession(t, newBlobs(t))
	bad := errors.New("input/output error")
	_, _, err := s.PutChunks(t.Context(), digestOf("abc"), "root.img", 3, unreadable{bad}, false)
	if !errors.Is(err, bad) || fault.ClassOf(err) != fault.Environment || !strings.HasPrefix(err.Error(), "reading the blob") {
		t.Errorf("got %v", err)
	}
}

// A seed that is not what it was: nothing of it stays, and the next attempt does
// without.
func TestChunksSeedChanges(t *testing.T) {
	old := noise(1, 1<<20)
	next := append(append([]byte(nil), old...), noise(2, 100_000)...)
	b := newSeeds(t, old)
	paths, err := b.Seeds(t.Context(), "root.img")
	if err != nil {
		t.Fatal(err)
	}
	// It changes between the look at it and its use: when the room is asked for.
	b.room = func(string) (int64, error) {
		return 1 << 40, os.WriteFile(paths[0], noise(3, 1<<20), 0o600)
	}
	s := blobSession(t, b)
	if _, _, err := sendAll(t, s, next, false); fault.ClassOf(err) != fault.Verification || len(left(t, b)) != 0 {
		t.Errorf("%v, left %v", err, left(t, b))
	}
	plan, _, err := sendAll(t, s, next, false)
	if err != nil || plan.Bytes != int64(len(next)) {
		t.Errorf("%+v, %v", plan, err)
	}
	checkBlob(t, b, string(next))
}

// A disk without room: before, nothing is sent; within, nothing stays.
func TestChunksFull(t *testing.T) {
	data := noise(1, 6<<20) // more than is on its way at once
	b := newBlobs(t)
	b.room = func(string) (int64, error) { return blobReserve + int64(len(data)) - 1, nil }
	_, packed, err := sendAll(t, blobSession(t, b), data, false)
	if fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "is full") || packed > 100_000 {
		t.Errorf("%d bytes, %v", packed, err)
	}
	if l := left(t, b); len(l) != 0 {
		t.Errorf("left: %v", l)
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("a file system of its own needs root:", err)
	}
	defer unix.Unmount(dir, 0) //nolint:errcheck // the test's end
	if b, err = NewBlobs(filepath.Join(dir, "blobs"), nowhere); err != nil {
		t.Fatal(err)
	}
	b.room = func(string) (int64, error) { return 1 << 40, nil } // somebody else takes it
	_, _, err = sendAll(t, blobSession(t, b), data, false)
	if fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "the file system of "+b.dir+" is full, and") {
		t.Errorf("got %v", err)
	}
	if l := left(t, b); len(l) != 0 {
		t.Errorf("left: %v", l)
	}
}

// What is left of an attempt is swept as any part is.
func TestChunksSweep(t *testing.T) {
	b := newBlobs(t)
	path := b.file(digestOf("x")) + chunkSuffix
	old := time.Now().Add(-BlobAge - time.Minute)
	if err := errors.Join(os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if n, err := b.Sweep(time.Now()); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	if n, err := b.Sweep(time.Now()); n != 0 || err != nil || len(left(t, b)) != 0 {
		t.Errorf("%d, %v", n, err)
	}
}

func TestUsualChunk(t *testing.T) {
	for size, want := range map[int64]int{1: 16 << 10, 1 << 30: 16 << 10, 1<<30 + 1: 32 << 10, MaxBlob: 1 << 20} {
		if got := usualChunk(size); got != want {
			t.Errorf("%d: %d, and not %d", size, got, want)
		}
	}
}

func FuzzChunks(f *testing.F) {
	f.Add(appendChunks(nil, []chunk{{size: 3}, {size: 5}}), int64(8))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, int64(1)<<40)
	f.Fuzz(func(t *testing.T, text []byte, size int64) {
		if size < 1 || size > MaxBlob {
			return
		}
		list, err := readChunks(bufio.NewReader(bytes.NewReader(text)), size)
		if err != nil {
			return
		}
		at := int64(0)
		for _, c := range list {
			if c.offset != at || c.size < 1 {
				t.Fatalf("%+v at %d", c, at)
			}
			at += int64(c.size)
		}
		if at != size || !bytes.HasPrefix(text, appendChunks(nil, list)[:1]) {
			t.Fatalf("%d bytes of %d", at, size)
		}
	})
}

// FuzzChunksTaken is a sender that says anything.
func FuzzChunksTaken(f *testing.F) {
	data := []byte(strings.Repeat("0123456789", 3000))
	var list []chunk
	if err := cutChunks(bytes.NewReader(data), int64(len(data)), func(c chunk) error { list = append(list, c); return nil }); err != nil {
		f.Fatal(err)
	}
	good := appendChunks(nil, list)
	w, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(good, w.EncodeAll(data, nil)...))
	f.Add(good)
	digest := digestOf(string(data))
	f.Fuzz(func(t *testing.T, said []byte) {
		b := newBlobs(t)
		s := blobSession(t, b)
		stream, err := s.Upgrade(t.Context(), blobPath(digest)+"/chunks?"+url.Values{"size": {strconv.Itoa(len(data))}}.Encode())
		if err != nil {
			t.Fatal(err)
		}
		stream.Write(said) //nolint:errcheck // it may have heard enough
		stream.CloseWrite()
		answer, _ := io.ReadAll(stream)
		if path := b.Waiting(digest); path != "" {
			got, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(got, data) || !bytes.HasSuffix(answer, []byte("{}\n")) {
				t.Fatalf("%d bytes, %v, %q", len(got), err, answer)
			}
		}
	})
}

// BenchmarkChunks sends an image of 128 MiB over one that differs from it in a
// part of 1 MiB, over a unix socket; the bytes that passed it are a metric.
func BenchmarkChunks(b *testing.B) {
	old := noise(1, 128<<20)
	next := bytes.Join([][]byte{old[:50<<20], noise(2, 1<<20), old[51<<20:]}, nil)
	sum := sha256.Sum256(next)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	blobs := newSeeds(b, old)
	s := unixSession(b, blobHandler(blobs))
	b.SetBytes(int64(len(next)))
	var packed int64
	for b.Loop() {
		var err error
		if _, packed, err = s.PutChunks(b.Context(), digest, "root.img", int64(len(next)), bytes.NewReader(next), false); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := blobs.Drop(b.Context(), digest); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(packed), "sent-B")
}
