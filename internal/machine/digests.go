package machine

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// maxDigests bounds the cache: three a bundle.
	maxDigests    = 96
	maxDigestFile = 64 << 10
	// settled is how old a file's last change must be for its digest to be
	// remembered: time stamps are too coarse to tell a change that follows.
	settled = 2 * time.Second
)

// fileID is a file in one state: any change of its content, or a change of its
// times to hide one, gives another. Only the kernel sets the time of a change.
type fileID struct {
	Device   uint64 `json:"dev"`
	Inode    uint64 `json:"ino"`
	Size     int64  `json:"size"`
	Modified int64  `json:"mtime"` // nanoseconds since 1970
	Changed  int64  `json:"ctime"`
}

func identify(f *os.File) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fileID{}, fault.Wrap(fault.Environment, &os.PathError{Op: "stat", Path: f.Name(), Err: err})
	}
	return fileID{uint64(st.Dev), st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}, nil
}

// digest is what was read in a file.
type digest struct {
	fileID
	Digest string `json:"digest"`
}

// digests are the files whose content is known, the newest last.
type digests []digest

func (r *Runtime) digestFile() string { return filepath.Join(r.dir, "cache", "digests.json") }

// loadDigests reads the cache. It is only a cache: what cannot be read is as
// good as absent, and is written anew.
func loadDigests(path string) digests {
	info, err := os.Stat(path)
	if err != nil || info.Size() > maxDigestFile {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return parseDigests(b)
}

func parseDigests(b []byte) digests {
	var ds digests
	if err := json.Unmarshal(b, &ds); err != nil {
		return nil
	}
	return ds[max(len(ds)-maxDigests, 0):]
}

func (ds digests) find(id fileID) (digest, bool) {
	for _, d := range ds {
		if d.fileID == id {
			return d, true
		}
	}
	return digest{}, false
}

// add returns the digests with what was found, nil when nothing of it is new,
// without older states of the same files and without what changed just now.
func (ds digests) add(found []digest) digests {
	kept, changed := digests{}, false
	fresh := time.Now().Add(-settled).UnixNano()
	same := map[[2]uint64]bool{}
	for _, d := range found {
		if _, known := ds.find(d.fileID); !known && d.Changed < fresh {
			changed = true
			same[[2]uint64{d.Device, d.Inode}] = true
		}
	}
	if !changed {
		return nil
	}
	for _, d := range ds {
		if !same[[2]uint64{d.Device, d.Inode}] {
			kept = append(kept, d)
		}
	}
	for _, d := range found {
		if same[[2]uint64{d.Device, d.Inode}] {
			kept = append(kept, d)
		}
	}
	return kept[max(len(kept)-maxDigests, 0):]
}

func (ds digests) save(path string) error {
	if ds == nil {
		return nil
	}
	b, err := json.Marshal(ds)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(b, '\n'), 0o600)
}
