package apk

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"time"

	kgzip "github.com/klauspost/compress/gzip"

	"github.com/sovereign-build/sovereign/internal/stream"
)

// memberFile is one file of a signature, control or index member.
type memberFile struct {
	name string
	data []byte
	mode int64
}

// gzipLevel is of the standard library's encoder, whose output packages have
// had from the start. 9 costs twice the time of 6 for about one percent.
const gzipLevel = 6

// newGzip writes a gzip member without name and time.
func newGzip(w io.Writer) (*gzip.Writer, error) {
	return gzip.NewWriterLevel(w, gzipLevel)
}

// writeMember writes files as one gzip member. Only the last member of a file
// has the end-of-archive blocks of tar (end): apk reads all of them as one tar
// stream.
func writeMember(w io.Writer, epoch int64, end bool, files ...memberFile) error {
	return writeMemberLevel(w, gzipLevel, epoch, end, files...)
}

func writeMemberLevel(w io.Writer, level int, epoch int64, end bool, files ...memberFile) error {
	gz, err := gzip.NewWriterLevel(w, level)
	if err != nil {
		return err
	}
	if err := writeFiles(gz, epoch, end, files...); err != nil {
		return err
	}
	return gz.Close()
}

// writeFiles writes files as a tar stream.
func writeFiles(w io.Writer, epoch int64, end bool, files ...memberFile) error {
	tw := tar.NewWriter(w)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Size: int64(len(f.data)), Mode: f.mode, ModTime: time.Unix(epoch, 0).UTC()}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if _, err := tw.Write(f.data); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	if !end {
		return tw.Flush()
	}
	return tw.Close()
}

// Limits of a member that is not data, unpacked: Alpine's largest index is
// about 8 MiB.
const (
	maxSignature = 64 << 10 // of 512 bytes each, with their headers
	maxControl   = 8 << 20
	maxIndex     = 256 << 20
	maxInMembers = 64 // files
)

// countingReader counts what a decompressor takes. As an io.ByteReader it
// keeps the decompressor from reading past the end of a member.
type countingReader struct {
	r *bufio.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func (c *countingReader) ReadByte() (byte, error) {
	b, err := c.r.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}

// readMember reads the gzip member at r's place, and its files; contents
// together have at most limit bytes. r is left right after the member.
func readMember(r *countingReader, limit int64) ([]memberFile, error) {
	gz, err := kgzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("not gzip: %w", err)
	}
	gz.Multistream(false)
	left := limit
	limited := stream.AtMost(gz, &limit, errTooLarge)
	tr := tar.NewReader(limited)
	var files []memberFile
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("tar: %w", err)
		}
		if len(files) == maxInMembers {
			return nil, fmt.Errorf("more than %d files", maxInMembers)
		}
		if h.Typeflag != tar.TypeReg {
			return nil, fmt.Errorf("%s is not a regular file", h.Name)
		}
		// What limited does not see: a sparse file is as large as it says.
		data, err := io.ReadAll(io.LimitReader(tr, left+1))
		if left -= int64(len(data)); err == nil && left < 0 {
			err = errTooLarge
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", h.Name, err)
		}
		files = append(files, memberFile{h.Name, data, h.Mode})
	}
	// To the end of the member, for its checksum.
	if _, err := io.Copy(io.Discard, limited); err != nil {
		return nil, fmt.Errorf("gzip: %w", err)
	}
	return files, nil
}

var errTooLarge = errors.New("unpacks to more than is allowed")
