package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/sovereign-build/sovereign/internal/stream"
)

// Damage is a file of the store that is not what its name says.
type Damage struct {
	Path   string `json:"path"`
	Digest Digest `json:"digest,omitempty"` // of a blob, as it should be
	Size   int64  `json:"size"`             // bytes, as it is
	// Reason is what is wrong: the digest it has, or why it cannot be read.
	Reason string `json:"reason"`
	// Uses names what the blob is: "port zlib amd64: apk zlib".
	Uses []string `json:"uses"`
	// Removed is true where Verify removed it.
	Removed bool `json:"removed"`
}

// Verified says what Verify found.
type Verified struct {
	Usage
	Actions int      `json:"actions"`
	Damaged []Damage `json:"damaged"` // by path
}

// VerifyOptions change what Verify does.
type VerifyOptions struct {
	// Repair removes what is damaged, so that it is fetched or built again.
	Repair bool
	// Progress, if set, is told what has been read, of how much.
	Progress func(done, of Usage)
}

// Verify reads every blob and holds it against its digest, and looks whether
// every action can be read. Damage is no error: look at Damaged.
func (s *Store) Verify(ctx context.Context, o VerifyOptions) (Verified, error) {
	v := Verified{Damaged: []Damage{}}
	type blob struct {
		digest Digest
		size   int64
	}
	var all []blob
	var total Usage
	err := s.eachBlob(func(d Digest, info fs.FileInfo) error {
		all = append(all, blob{d, info.Size()})
		total.add(info.Size())
		return nil
	})
	if err != nil {
		return v, err
	}
	var mu sync.Mutex
	group, reading := errgroup.WithContext(ctx)
	group.SetLimit(min(4, runtime.NumCPU()))
	for _, b := range all {
		group.Go(func() error {
			reason, err := s.check(reading, b.digest)
			if err != nil {
				return ignoreGone(err)
			}
			mu.Lock()
			defer mu.Unlock()
			v.add(b.size)
			if reason != "" {
				v.Damaged = append(v.Damaged, Damage{Path: s.Path(b.digest), Digest: b.digest, Size: b.size, Reason: reason, Uses: []string{}})
			}
			if o.Progress != nil {
				o.Progress(v.Usage, total)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		if ctx.Err() != nil {
			return v, context.Cause(ctx)
		}
		return v, s.environment(err)
	}
	uses, err := s.verifyActions(&v)
	if err != nil {
		return v, s.environment(err)
	}
	slices.SortFunc(v.Damaged, func(a, b Damage) int { return strings.Compare(a.Path, b.Path) })
	for i := range v.Damaged {
		d := &v.Damaged[i]
		if names := uses[d.Digest]; len(names) > 0 {
			slices.Sort(names)
			d.Uses = slices.Compact(names)
		}
		if !o.Repair {
			continue
		}
		if err := s.removeDamaged(ctx, *d); err != nil {
			return v, s.environment(err)
		}
		d.Removed = true
	}
	return v, nil
}

// removeDamaged removes a file, unless it was replaced by a right one since.
func (s *Store) removeDamaged(ctx context.Context, d Damage) error {
	if d.Digest != "" {
		if reason, err := s.check(ctx, d.Digest); err != nil || reason == "" {
			return ignoreGone(err)
		}
	}
	return ignoreGone(os.Remove(d.Path))
}

// check says what is wrong with a blob. The error is that of ctx, or
// fs.ErrNotExist for one that was removed meanwhile.
func (s *Store) check(ctx context.Context, want Digest) (string, error) {
	f, err := os.Open(s.Path(want))
	if errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	h := sha256.New()
	if err == nil {
		_, err = io.Copy(h, stream.WithContext(ctx, f))
		err = errors.Join(err, f.Close())
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		return fmt.Sprintf("it cannot be read: %v", err), nil
	}
	if got := fromSum(h.Sum(nil)); got != want {
		return fmt.Sprintf("its content is %s", got), nil
	}
	return "", nil
}

// verifyActions adds the actions that cannot be read to what is damaged, and
// returns what the others call each blob.
func (s *Store) verifyActions(v *Verified) (map[Digest][]string, error) {
	uses := map[Digest][]string{}
	err := s.walk("actions", func(base string) error {
		key := strings.TrimSuffix(base, ".json")
		a, ok, err := s.readAction(key)
		if err != nil {
			return err
		}
		path := filepath.Join(s.memory, "actions", base)
		if !ok {
			info, err := os.Lstat(path)
			if err != nil {
				return ignoreGone(err) // it was removed meanwhile
			}
			v.Damaged = append(v.Damaged, Damage{Path: path, Size: info.Size(), Reason: "it is not a record of a step", Uses: []string{}})
			return nil
		}
		v.Actions++
		for output, d := range a.Outputs {
			uses[d] = append(uses[d], a.Name+": "+output)
		}
		return nil
	})
	return uses, err
}
