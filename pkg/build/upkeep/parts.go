package upkeep

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const toolchainPart = "toolchain"

// partNames are the directories of a cache directory, beside the store, that
// hold only what can be made or fetched again. The engine's is not among them:
// the engine bounds it.
var partNames = []string{"apk", "apt", "gomod", "logs", "partial", "repro", "tmp", toolchainPart}

// entry is what a part consists of: a file or directory, and in the toolchain's
// all of one image: "KEY", "KEY.log", "KEY.checked".
type entry struct {
	paths   []string
	size    int64
	lastUse time.Time // the newest time of a file in it
}

// collectParts removes the entries whose last use was before the cutoff.
// Nobody uses the cache directory meanwhile.
func collectParts(ctx context.Context, cacheDir string, cutoff time.Time, dryRun bool, keep map[string]bool) ([]Part, error) {
	parts := []Part{}
	for _, name := range partNames {
		p := Part{Name: name}
		entries, err := readPart(ctx, filepath.Join(cacheDir, name))
		if err != nil {
			return parts, err
		}
		for _, key := range slices.Sorted(maps.Keys(entries)) {
			e := entries[key]
			p.Before += e.size
			if !e.lastUse.Before(cutoff) || name == toolchainPart && keep[key] {
				continue
			}
			p.Removed += e.size
			p.Entries += len(e.paths)
			if dryRun {
				continue
			}
			for _, path := range e.paths {
				if err := os.RemoveAll(path); err != nil {
					return append(parts, p), err
				}
			}
		}
		if p.Before > 0 || p.Entries > 0 {
			parts = append(parts, p)
		}
	}
	return parts, nil
}

// readPart lists the entries of a directory, none where it is not there. Lock
// files are none: a lock that is removed can be held twice.
func readPart(ctx context.Context, dir string) (map[string]*entry, error) {
	all := map[string]*entry{}
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	for _, item := range list {
		name := item.Name()
		if name == "lock" || strings.HasSuffix(name, ".lock") {
			continue
		}
		key := name
		if i := strings.IndexByte(name, '.'); i > 0 && filepath.Base(dir) == toolchainPart {
			key = name[:i]
		}
		e := all[key]
		if e == nil {
			e = &entry{}
			all[key] = e
		}
		path := filepath.Join(dir, name)
		e.paths = append(e.paths, path)
		err := filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
			if err := errors.Join(err, context.Cause(ctx)); err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if !d.IsDir() {
				e.size += info.Size()
			}
			if info.ModTime().After(e.lastUse) {
				e.lastUse = info.ModTime()
			}
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return all, nil
}
