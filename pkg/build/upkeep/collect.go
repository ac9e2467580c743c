package upkeep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/build/toolchain"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// DefaultAge is the default of Options.OlderThan: 14 days.
const DefaultAge = 14 * 24 * time.Hour

// Options change what Collect does.
type Options struct {
	// OlderThan keeps what was used since, named or not.
	OlderThan time.Duration
	// DryRun removes nothing and says what would be.
	DryRun bool
	// Note, if set, is told what goes on, a line at a time.
	Note func(line string)
	// Progress, if set, is told how many blobs of those that may go have been
	// seen to.
	Progress func(n, of int)
}

// Result says what Collect removed, or in a dry run would have. Sizes are in
// bytes.
type Result struct {
	DryRun  bool  `json:"dry_run"`
	Before  int64 `json:"before"`
	Removed int64 `json:"removed"`
	After   int64 `json:"after"`
	// Store is the content store's part.
	Store store.Collected `json:"store"`
	// Parts are the other parts of the cache directory, by name; none while
	// Busy.
	Parts []Part `json:"parts"`
	// Busy is true when a build was going on: then only the store was seen to.
	Busy bool `json:"busy"`
}

// Part is one of the directories beside the store.
type Part struct {
	Name    string `json:"name"`
	Before  int64  `json:"before"`  // bytes
	Removed int64  `json:"removed"` // bytes
	Entries int    `json:"entries"` // files and directories removed
}

// Collect removes from the store in a cache directory what store.Collect does:
// what no lock, bundle or newest step names, and nobody used lately. From
// beside it go toolchain images that no lock names, repositories laid out from
// the store, downloads that were broken off, logs, apt's lists and kept second
// builds, all that were not used lately.
func Collect(ctx context.Context, st *store.Store, cacheDir string, o Options) (Result, error) {
	r := Result{DryRun: o.DryRun, Parts: []Part{}}
	note := o.Note
	if note == nil {
		note = func(string) {}
	}
	keep := map[string]bool{} // toolchain images
	var err error
	r.Store, err = st.Collect(ctx, store.CollectOptions{
		OlderThan: o.OlderThan, DryRun: o.DryRun, Progress: o.Progress,
		Waiting: func() { note("waiting for another program that uses the store") },
		Named: func(root store.Root) ([]store.Digest, error) {
			digests, l, err := named(root)
			if l != nil {
				key, keyErr := toolchain.Key(l.Toolchain, l.SourceDate)
				if keyErr != nil {
					return nil, keyErr
				}
				keep[key] = true
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				note(fmt.Sprintf("%s: %v; what it named is kept", root.Path, err))
			}
			return digests, err
		},
	})
	r.sum()
	if err != nil {
		return r, err
	}
	quiet, err := st.Quiet(ctx, func() error {
		r.Parts, err = collectParts(ctx, cacheDir, time.Now().Add(-o.OlderThan), o.DryRun, keep)
		return err
	})
	r.Busy = !quiet
	r.sum()
	if err != nil && ctx.Err() != nil {
		return r, context.Cause(ctx)
	}
	return r, fault.Wrap(fault.Environment, err)
}

func (r *Result) sum() {
	r.Before, r.Removed = r.Store.Before.Bytes, r.Store.Removed.Bytes
	for _, p := range r.Parts {
		r.Before += p.Before
		r.Removed += p.Removed
	}
	r.After = r.Before - r.Removed
}
