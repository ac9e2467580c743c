package control

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"math/bits"
	"net/url"
	"strconv"
	"time"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc" // registers chunker
	"github.com/klauspost/compress/zstd"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// CanChunks is the ability to take a blob in chunks, and only those that are
// not there in another file.
const CanChunks = "chunks"

const (
	// chunker cuts by content: what is moved within a file, or follows what was
	// put in, is cut as before. Its name has its version; a peer with another
	// one is only told to send more.
	chunker = "fastcdc-v1.0.0"
	// smallestChunk is the usual size of a chunk, bytes: the smaller, the less
	// of what is the same travels with what is not, and the more chunks are to
	// be named. Figures are in docs/devices.md.
	smallestChunk = 16 << 10
	// manyChunks is about how many a blob has at most: those of a large one are
	// larger.
	manyChunks = 1 << 16
	// maxChunks bounds the list, and so the memory for it.
	maxChunks = 4 * manyChunks
	// chunkNameSize is how much of a chunk's SHA-256 names it. It finds content;
	// what the blob's own digest holds is the whole.
	chunkNameSize = 16
	// maxZstdWindow bounds the memory for what is unpacked, bytes.
	maxZstdWindow = 8 << 20
	// maxPlan bounds a line of JSON in the conversation, bytes.
	maxPlan = maxError
)

// usualChunk is the usual size of a blob's chunks: a power of two. A quarter of
// it is the smallest and eight times it the largest.
func usualChunk(size int64) int {
	n := smallestChunk
	for int64(n)*manyChunks < size {
		n *= 2
	}
	return n
}

type chunkName [chunkNameSize]byte

func nameOf(data []byte) chunkName {
	sum := sha256.Sum256(data)
	return chunkName(sum[:chunkNameSize])
}

// chunk is a part of a file.
type chunk struct {
	name   chunkName
	offset int64
	size   int
}

// cutChunks cuts what r has, as a blob of that size is cut.
func cutChunks(r io.Reader, size int64, each func(chunk) error) error {
	usual := usualChunk(size)
	c, err := chunkers.NewChunker(chunker, r, &chunkers.ChunkerOpts{MinSize: usual / 4, NormalSize: usual, MaxSize: usual * 8})
	if err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	for at := int64(0); ; {
		data, err := c.Next()
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(data) > 0 {
			if err := each(chunk{nameOf(data), at, len(data)}); err != nil {
				return err
			}
		}
		if at += int64(len(data)); err != nil {
			return nil
		}
	}
}

// appendChunks is the list as it is sent: the number of chunks, and of each its
// size, as varints, and its name.
func appendChunks(b []byte, list []chunk) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, c := range list {
		b = binary.AppendUvarint(b, uint64(c.size))
		b = append(b, c.name[:]...)
	}
	return b
}

// readChunks reads a list of the chunks of a blob, which are all of it.
func readChunks(r *bufio.Reader, size int64) ([]chunk, error) {
	most := int64(usualChunk(size)) * 8
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	if n > maxChunks || int64(n) > size {
		return nil, fault.Errorf(fault.Usage, "%d chunks of a blob of %d bytes", n, size)
	}
	// As it grows: who announces much has to send it.
	var list []chunk
	at := int64(0)
	for range n {
		length, err := binary.ReadUvarint(r)
		if err != nil {
			return nil, err
		}
		if length == 0 || length > uint64(most) || int64(length) > size-at {
			return nil, fault.Errorf(fault.Usage, "a chunk of %d bytes at %d of %d", length, at, size)
		}
		c := chunk{offset: at, size: int(length)}
		if _, err := io.ReadFull(r, c.name[:]); err != nil {
			return nil, err
		}
		list, at = append(list, c), at+int64(length)
	}
	if at != size {
		return nil, fault.Errorf(fault.Usage, "the chunks have %d bytes, and the blob %d", at, size)
	}
	return list, nil
}

// A ChunkPlan is what the receiver lacks of a blob.
type ChunkPlan struct {
	// Whole: it has all of it, by now.
	Whole  bool `json:"whole,omitempty"`
	Chunks int  `json:"chunks"`
	// Missing is how many of them are to be sent, Bytes what they have before
	// any compression.
	Missing int   `json:"missing"`
	Bytes   int64 `json:"bytes"`
	// Room is what an earlier attempt has taken of the disk already, bytes.
	Room int64 `json:"room,omitempty"`
}

// reply is a line of what the receiver says: a plan, or an error; the last one
// is empty where the blob is there.
type reply struct {
	ChunkPlan
	failure
}

// bitmap says of each chunk whether it is missing.
type bitmap []byte

func newBitmap(n int) bitmap    { return make(bitmap, (n+7)/8) }
func (b bitmap) set(i int)      { b[i/8] |= 1 << (i % 8) }
func (b bitmap) has(i int) bool { return b[i/8]&(1<<(i%8)) != 0 }
func (b bitmap) count() (count int) {
	for _, v := range b {
		count += bits.OnesCount8(v)
	}
	return count
}

// readPlan reads a line of what the receiver says.
func readPlan(r *bufio.Reader) (ChunkPlan, error) {
	text, err := readLine(r, maxPlan)
	if err != nil {
		return ChunkPlan{}, err
	}
	var l reply
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return ChunkPlan{}, fault.Errorf(fault.Device, "sovereignd's answer: %w", err)
	}
	if l.Text != "" {
		return ChunkPlan{}, parseError(0, []byte(text))
	}
	return l.ChunkPlan, nil
}

// PutChunks sends a blob of size bytes in chunks, but for those that the peer
// has in a file of that name, or has from an attempt whose session ended before
// its answer, ErrLost. With plan it only asks what it would have to send. sent
// is how many bytes of chunks went out, and packed how many of the link's.
func (s *Session) PutChunks(ctx context.Context, digest, name string, size int64, content io.ReaderAt, plan bool) (p ChunkPlan, packed int64, err error) {
	query := url.Values{"size": {strconv.FormatInt(size, 10)}, "name": {name}}
	if plan {
		query.Set("plan", "true")
	}
	stream, err := s.Upgrade(ctx, blobPath(digest)+"/chunks?"+query.Encode())
	if err != nil {
		return p, 0, err
	}
	defer context.AfterFunc(ctx, func() { stream.Close() })()
	defer stream.Close()
	source := &source{r: io.NewSectionReader(content, 0, size)}
	out := &counted{w: stream}
	p, err = putChunks(out, size, content, source, plan)
	if sourceErr := source.failed(); sourceErr != nil {
		return p, out.n, fault.Errorf(fault.Environment, "reading the blob %s: %w", digest, sourceErr)
	}
	var own *fault.Error
	if err != nil && !errors.As(err, &own) {
		err = lost(ctx, err)
	}
	return p, out.n, err
}

func putChunks(out *counted, size int64, content io.ReaderAt, source *source, plan bool) (ChunkPlan, error) {
	var list []chunk
	if err := cutChunks(source, size, func(c chunk) error { list = append(list, c); return nil }); err != nil {
		return ChunkPlan{}, err
	}
	// It is listened to all the time: a receiver that has had enough reads no
	// more, and who only writes would wait for it.
	answers := listen(out.w)
	_, err := out.Write(appendChunks(nil, list))
	a := <-answers
	switch {
	case a.err != nil:
		return ChunkPlan{}, a.err
	case a.Whole:
		return a.ChunkPlan, nil
	case err != nil:
		return ChunkPlan{}, err
	}
	if n := a.missing.count(); n != a.Missing || a.Chunks != len(list) {
		return ChunkPlan{}, fault.Errorf(fault.Device, "sovereignd asks for %d chunks of %d, and names %d of %d", a.Missing, a.Chunks, n, len(list))
	}
	if plan {
		return a.ChunkPlan, nil
	}
	if err = sendChunks(out, list, a.missing, content, source); err == nil {
		err = out.w.CloseWrite()
	}
	if err != nil && source.failed() != nil {
		return a.ChunkPlan, err // and the receiver waits for more
	}
	if end := <-answers; end.err != nil {
		err = end.err
	}
	return a.ChunkPlan, err
}

// answer is what a receiver says to a list, or at the end.
type answer struct {
	ChunkPlan
	missing bitmap
	err     error
}

// listen gives both answers, or one that is an error: then whoever writes is let
// go. It ends with the stream.
func listen(s *Stream) <-chan answer {
	answers := make(chan answer, 2)
	go func() {
		in := bufio.NewReader(s)
		for n := range 2 {
			var a answer
			a.ChunkPlan, a.err = readPlan(in)
			if n == 0 && a.err == nil && !a.Whole {
				if a.Chunks < 0 || a.Chunks > maxChunks {
					a.err = fault.Errorf(fault.Device, "sovereignd speaks of %d chunks", a.Chunks)
				} else {
					a.missing = newBitmap(a.Chunks)
					_, a.err = io.ReadFull(in, a.missing)
				}
			}
			answers <- a
			if a.err != nil {
				_ = s.SetWriteDeadline(time.Now()) // or it is closed, which does as well
				return
			}
		}
	}()
	return answers
}

// sendChunks sends those that are missing, one behind the other, compressed.
func sendChunks(out *counted, list []chunk, missing bitmap, content io.ReaderAt, source *source) error {
	w, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return fault.Wrap(fault.Internal, err)
	}
	for i, c := range list {
		if !missing.has(i) {
			continue
		}
		source.r = io.NewSectionReader(content, c.offset, int64(c.size))
		if _, err := io.Copy(w, source); err != nil {
			return errors.Join(err, w.Close())
		}
	}
	return w.Close()
}

// counted counts what passes.
type counted struct {
	w *Stream
	n int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
