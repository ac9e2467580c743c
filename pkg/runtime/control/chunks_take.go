package control

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/stream"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// maxSeeds bounds the files that are looked into for a blob.
	maxSeeds = 16
	// maxRun is how much of a seed is read at a time, bytes.
	maxRun = 1 << 20
)

// Chunks takes a blob in chunks: who sends names all of them, is told which are
// nowhere here, and sends those. Each chunk has its place in the file from the
// begin, so that what has arrived before a connection broke is found there by
// the next attempt.
func (b *Blobs) Chunks(w http.ResponseWriter, r *http.Request, digest string) {
	if !digestForm.MatchString(digest) {
		WriteError(w, fault.Errorf(fault.Usage, "%.80q is not sha256: and 64 hex digits", digest))
		return
	}
	q := r.URL.Query()
	size, err := parseCount(q.Get("size"))
	if err != nil || size < 1 || size > MaxBlob {
		WriteError(w, fault.Errorf(fault.Usage, "a blob of %.40q bytes, and not of 1 to %d", q.Get("size"), int64(MaxBlob)))
		return
	}
	plan := false
	if text := q.Get("plan"); text != "" {
		if plan, err = strconv.ParseBool(text); err != nil {
			WriteError(w, fault.Errorf(fault.Usage, "plan=%.20q: want true or false", text))
			return
		}
	}
	release, err := b.hold(r.Context(), digest)
	if err != nil {
		return // the peer is gone
	}
	defer release()
	s, err := Accept(w, r)
	if err != nil {
		return // it has been answered
	}
	defer s.Close()
	// The request's context does not end with a stream that was taken over.
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	t := &taking{b: b, s: s, in: bufio.NewReaderSize(&patientStream{s: s}, 64<<10), digest: digest, name: q.Get("name"), size: size}
	if err := t.take(ctx, plan); err != nil {
		t.fail(err)
	}
}

// taking is a blob that is taken in chunks.
type taking struct {
	b      *Blobs
	s      *Stream
	in     *bufio.Reader
	digest string
	name   string
	size   int64

	list  []chunk
	seeds []*os.File
	from  []place // of each chunk in list
}

// place says where a chunk is: in a seed, in the file that is being filled, or
// nowhere here.
type place struct {
	seed   int // its number, or one of these
	offset int64
}

const (
	comes   = -1 // it is to be sent
	inPlace = -2
)

// fail tells the sender why its blob is not taken.
func (t *taking) fail(err error) {
	f := failure{fault.ClassOf(err), err.Error(), fault.HintOf(err)}
	f.Text = f.Text[:min(len(f.Text), maxError/8)]
	f.Hint = f.Hint[:min(len(f.Hint), 4<<10)]
	text, _ := json.Marshal(f) // of strings and a number
	if t.say(append(text, '\n')) == nil {
		_ = t.s.CloseWrite() // the peer is gone
	}
}

func (t *taking) say(text []byte) error {
	if err := t.s.SetWriteDeadline(time.Now().Add(silence)); err != nil {
		return err
	}
	_, err := t.s.Write(text)
	return err
}

func (t *taking) sayPlan(p ChunkPlan) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	return t.say(append(text, '\n'))
}

func (t *taking) take(ctx context.Context, plan bool) error {
	path, err := t.b.find(ctx, t.digest)
	if err == nil && path != "" {
		if err = t.sayPlan(ChunkPlan{Whole: true}); err == nil {
			err = t.s.CloseWrite()
		}
		return err
	}
	if err != nil {
		return err
	}
	// The seeds are cut while the sender cuts its file.
	type cutSeeds struct {
		found map[chunkName]place
		err   error
	}
	cutting := make(chan cutSeeds, 1)
	searching, stop := context.WithCancel(ctx)
	defer func() {
		stop()
		for _, f := range t.seeds {
			f.Close()
		}
	}()
	if err := t.openSeeds(ctx); err != nil {
		return err
	}
	go func() {
		found, err := t.cutSeeds(searching)
		cutting <- cutSeeds{found, err}
	}()
	list, err := readChunks(t.in, t.size)
	if err != nil {
		stop()
		<-cutting // the seeds are closed only then
		return t.broken(err)
	}
	cut := <-cutting
	if cut.err != nil {
		return cut.err
	}
	t.list = list
	f, have, err := t.look(ctx, cut.found)
	if err != nil {
		return err
	}
	if f != nil {
		defer f.Close()
	}
	if !plan {
		if err := t.b.place(t.digest, t.size, have); err != nil {
			return err
		}
	}
	missing := newBitmap(len(list))
	p := ChunkPlan{Chunks: len(list), Room: have}
	for i, from := range t.from {
		if from.seed == comes {
			missing.set(i)
			p.Missing++
			p.Bytes += int64(list[i].size)
		}
	}
	if err = t.sayPlan(p); err == nil {
		err = t.say(missing)
	}
	if err != nil || plan {
		return errors.Join(err, t.s.CloseWrite())
	}
	if f == nil {
		if f, err = os.OpenFile(t.b.file(t.digest)+chunkSuffix, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600); err != nil {
			return fault.Wrap(fault.Environment, err)
		}
		defer f.Close()
	}
	if err := t.fill(ctx, f); err != nil {
		return err
	}
	// What came in one piece before is of no use any more.
	if err := os.Remove(t.b.file(t.digest) + partSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fault.Wrap(fault.Environment, err)
	}
	if err := t.say([]byte("{}\n")); err != nil {
		return err
	}
	return t.s.CloseWrite()
}

// openSeeds opens the files that may have chunks of the blob. One that is gone
// by now is none.
func (t *taking) openSeeds(ctx context.Context) error {
	if t.b.Seeds == nil {
		return nil
	}
	paths, err := t.b.Seeds(ctx, t.name)
	if err != nil {
		return err
	}
	for _, path := range paths[:min(len(paths), maxSeeds)] {
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
			f.Close()
			continue
		}
		t.seeds = append(t.seeds, f)
	}
	return nil
}

// cutSeeds cuts the seeds as the blob is cut.
func (t *taking) cutSeeds(ctx context.Context) (map[chunkName]place, error) {
	found := map[chunkName]place{}
	for n, f := range t.seeds {
		err := cutChunks(stream.WithContext(ctx, f), t.size, func(c chunk) error {
			if _, ok := found[c.name]; !ok {
				found[c.name] = place{n, c.offset}
			}
			return nil
		})
		if err != nil {
			return nil, fault.Wrap(fault.Environment, err)
		}
	}
	return found, nil
}

// look finds each chunk: in the file of an earlier attempt, which is returned
// with the room that it has, or in a seed.
func (t *taking) look(ctx context.Context, found map[chunkName]place) (f *os.File, have int64, err error) {
	t.from = make([]place, len(t.list))
	path := t.b.file(t.digest) + chunkSuffix
	if f, err = os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0); errors.Is(err, os.ErrNotExist) {
		f, err = nil, nil
	}
	if err != nil {
		return nil, 0, fault.Wrap(fault.Environment, err)
	}
	var end int64
	if f != nil {
		defer func() {
			if err != nil {
				f.Close()
			}
		}()
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return nil, 0, fault.Wrap(fault.Environment, err)
		}
		end, have = st.Size, min(st.Blocks*512, t.size)
	}
	buf := make([]byte, 0, usualChunk(t.size)*8)
	for i, c := range t.list {
		from, ok := found[c.name]
		switch {
		case ok:
			t.from[i] = from
			continue
		case c.offset+int64(c.size) > end:
			t.from[i].seed = comes
			continue
		case ctx.Err() != nil:
			return nil, 0, context.Cause(ctx)
		}
		t.from[i].seed = comes
		buf = buf[:c.size]
		if _, err := f.ReadAt(buf, c.offset); err != nil {
			return nil, 0, fault.Wrap(fault.Environment, err)
		}
		if nameOf(buf) == c.name {
			t.from[i] = place{inPlace, c.offset}
		}
	}
	return f, have, nil
}

// fill puts the blob together, verifies it and gives it its name.
func (t *taking) fill(ctx context.Context, f *os.File) error {
	arrive, err := zstd.NewReader(t.in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	defer arrive.Close()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	whole := &assembly{t: t, ctx: ctx, own: f, arrive: arrive}
	sum := sha256.New()
	n, err := receive(f, sum, whole)
	switch {
	case isFull(err):
		return errors.Join(full(t.b.dir, t.size-n, err), os.Remove(f.Name()))
	case whole.err != nil:
		return whole.err
	case err != nil:
		return fault.Wrap(fault.Environment, err)
	}
	// A sender that has more to say is not one of this protocol.
	if extra, err := arrive.Read(make([]byte, 1)); extra > 0 {
		return fault.Errorf(fault.Usage, "the blob %s: something follows the chunks", t.digest)
	} else if err != nil && !errors.Is(err, io.EOF) {
		return t.broken(err)
	}
	if err := f.Truncate(t.size); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	return t.b.finish(f, t.digest, sum)
}

// broken is an error of what the sender says.
func (t *taking) broken(err error) error {
	var own *fault.Error
	if errors.As(err, &own) {
		return err
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fault.Errorf(fault.Device, "the blob %s: %w", t.digest, err)
}

// assembly reads a blob from where its chunks are.
type assembly struct {
	t      *taking
	ctx    context.Context
	own    *os.File
	arrive io.Reader

	next int    // chunk
	buf  []byte // what is read next
	room []byte
	err  error // of this side
}

func (a *assembly) Read(b []byte) (int, error) {
	if len(a.buf) == 0 {
		if a.next == len(a.t.list) {
			return 0, io.EOF
		}
		if a.err = a.more(); a.err != nil {
			return 0, a.err
		}
	}
	n := copy(b, a.buf)
	a.buf = a.buf[n:]
	return n, nil
}

// more reads the next chunk, and with it those behind it that follow it at the
// same place as well.
func (a *assembly) more() error {
	if err := a.ctx.Err(); err != nil {
		return context.Cause(a.ctx)
	}
	t := a.t
	c, from := t.list[a.next], t.from[a.next]
	a.next++
	if a.room == nil {
		a.room = make([]byte, max(maxRun, usualChunk(t.size)*8))
	}
	if from.seed == comes {
		a.buf = a.room[:c.size]
		if _, err := io.ReadFull(a.arrive, a.buf); err != nil {
			return t.broken(err)
		}
		if nameOf(a.buf) != c.name {
			return fault.Errorf(fault.Verification, "the blob %s: the chunk at %d is not what it was said to be", t.digest, c.offset)
		}
		return nil
	}
	size := c.size
	for a.next < len(t.list) {
		follows, at := t.list[a.next], t.from[a.next]
		if at.seed != from.seed || at.offset != from.offset+int64(size) || size+follows.size > len(a.room) {
			break
		}
		size += follows.size
		a.next++
	}
	f := a.own
	if from.seed >= 0 {
		f = t.seeds[from.seed]
	}
	a.buf = a.room[:size]
	if _, err := f.ReadAt(a.buf, from.offset); err != nil {
		return fault.Wrap(fault.Environment, fmt.Errorf("%s: %w", f.Name(), err))
	}
	return nil
}

// patientStream reads what a sender says that may pause for a while.
type patientStream struct{ s *Stream }

func (p *patientStream) Read(b []byte) (int, error) {
	if err := p.s.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return p.s.Read(b)
}
