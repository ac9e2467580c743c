package store

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/sovereign-build/sovereign/internal/stream"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/remedy"
)

// Transfer says what Export wrote or Import took.
type Transfer struct {
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"`
	// Present are blobs the store had already, of Blobs.
	Present int `json:"present"`
}

// Progress is told each blob that is written or read, and how many there are.
type Progress func(b Blob, n, of int)

// Export writes an archive of c to w, as a stream, each blob verified on the
// way. The same contents give the same bytes, whatever the order of c.
//
// A blob that is not in the store is an error of class fault.Source that names
// it, one that is damaged fault.Verification.
func (s *Store) Export(ctx context.Context, w io.Writer, c Contents, progress Progress) (Transfer, error) {
	var t Transfer
	list, err := c.sorted()
	if err != nil {
		return t, fault.Errorf(fault.Internal, "exporting: %w", err)
	}
	for i := range list.Blobs {
		b := &list.Blobs[i]
		if b.Size, err = s.Size(b.Digest); err != nil {
			return t, fault.Errorf(fault.Source, "%s is not in the content store: %w", b.Name, err)
		}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return t, fault.Errorf(fault.Internal, "exporting: %w", err)
	}
	tw := tar.NewWriter(w)
	if err := archived(tw, contentsFile, int64(len(text)), bytes.NewReader(text)); err != nil {
		return t, fault.Wrap(fault.Environment, fmt.Errorf("exporting: %w", err))
	}
	for i, b := range list.Blobs {
		if progress != nil {
			progress(b, i+1, len(list.Blobs))
		}
		if err := s.exportBlob(ctx, tw, b); err != nil {
			if ctx.Err() != nil {
				return t, context.Cause(ctx)
			}
			return t, fault.Wrap(fault.Environment, fmt.Errorf("exporting %s: %w", b.Name, err))
		}
		t.Blobs++
		t.Bytes += b.Size
	}
	if err := tw.Close(); err != nil {
		return t, fault.Wrap(fault.Environment, fmt.Errorf("exporting: %w", err))
	}
	return t, nil
}

func (s *Store) exportBlob(ctx context.Context, tw *tar.Writer, b Blob) error {
	f, err := s.Open(b.Digest)
	if err != nil {
		return err
	}
	defer f.Close() // only read
	h := sha256.New()
	if err := archived(tw, blobName(b.Digest), b.Size, io.TeeReader(stream.WithContext(ctx, f), h)); err != nil {
		return err
	}
	if got := fromSum(h.Sum(nil)); got != b.Digest {
		return remedy.By(remedy.Remedy{Kind: remedy.RepairStore}, Mismatch(f.Name(), b.Digest, got).(*fault.Error).
			Hintf("repair the store and build again: what is damaged is removed, and fetched or built anew"))
	}
	return nil
}

func archived(tw *tar.Writer, name string, size int64, r io.Reader) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o444, Size: size, ModTime: time.Unix(0, 0)}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(tw, r)
	return err
}

// Import takes an archive's blobs, each verified, and then those of its
// actions that allow accepts: an action says what a step made, so whoever can
// add one to a store can put anything into a build.
//
// What the store has already is skipped: importing again continues an import
// that was interrupted, and where r can seek, that costs next to nothing. After
// an error the store holds whole and right blobs only.
//
// Errors: fault.Verification for bytes that are not those of their digest,
// fault.Source for a file that is no archive or ends early, fault.Environment
// for a full disk.
func (s *Store) Import(ctx context.Context, r io.Reader, allow func(Action) bool, progress Progress) (Transfer, error) {
	t, err := s.importAll(ctx, r, allow, progress)
	switch {
	case err == nil:
		return t, nil
	case ctx.Err() != nil:
		return t, context.Cause(ctx)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return t, fault.Errorf(fault.Source, "importing: the archive ends before its end: %w", err).
			Hintf("copy it again; what was taken from it stays")
	}
	return t, fault.Wrap(fault.Source, fmt.Errorf("importing: %w", err))
}

func (s *Store) importAll(ctx context.Context, r io.Reader, allow func(Action) bool, progress Progress) (t Transfer, err error) {
	tr := tar.NewReader(r)
	h, err := tr.Next()
	if err != nil {
		return t, notArchive(err)
	}
	if h.Name != contentsFile || h.Typeflag != tar.TypeReg {
		return t, notArchive(fmt.Errorf("it begins with %q", h.Name))
	}
	list, err := readContents(tr)
	if err != nil {
		return t, err
	}
	for i, b := range list.Blobs {
		if progress != nil {
			progress(b, i+1, len(list.Blobs))
		}
		h, err := tr.Next()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return t, fmt.Errorf("%s: %w", b.Name, err)
		}
		if h.Name != blobName(b.Digest) || h.Size != b.Size || h.Typeflag != tar.TypeReg {
			return t, fmt.Errorf("%s: expected %s of %d bytes, there is %s of %d", b.Name, blobName(b.Digest), b.Size, h.Name, h.Size)
		}
		switch size, err := s.Size(b.Digest); {
		case errors.Is(err, fs.ErrNotExist):
			if _, _, err := s.Put(ctx, tr, b.Digest); err != nil {
				return t, fmt.Errorf("%s: %w", b.Name, err)
			}
		case err != nil:
			return t, s.environment(err)
		case size != b.Size:
			return t, fault.Errorf(fault.Verification, "%s: %s has %d bytes in the store and %d in the archive", b.Name, b.Digest, size, b.Size)
		default:
			t.Present++
		}
		t.Blobs++
		t.Bytes += b.Size
	}
	for key, a := range list.Actions {
		if !allow(a) {
			return t, remedy.By(remedy.Remedy{Kind: remedy.ExportStore},
				fault.Errorf(fault.Verification, "the archive says what step %q made, which an archive must not", a.Name).
					Hintf("take archives of another store's export only"))
		}
		if err := s.PutAction(key, a); err != nil {
			return t, err
		}
	}
	return t, nil
}
