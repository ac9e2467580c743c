package continuity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
)

const (
	dirName  = ".sovereign"
	fileName = "continuity"
	maxFile  = 128 << 10 // bytes; a full record has 26 KiB
)

// Load reads the record of the data file system mounted at mount; nil where it
// has none.
func Load(mount string) (*Record, error) {
	f, err := os.Open(filepath.Join(mount, dirName, fileName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("continuity: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("continuity: %w", err)
	}
	r, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("continuity: %s: %w", f.Name(), err)
	}
	return r, nil
}

func parse(b []byte) (*Record, error) {
	if len(b) > maxFile {
		return nil, fmt.Errorf("over %d bytes", maxFile)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var r Record
	if err := d.Decode(&r); err != nil {
		return nil, err
	}
	switch {
	case !isHex(r.Lineage, 32) || !isHex(r.Nonce, 32) || !isHex(r.Hash, 64):
		return nil, errors.New("lineage, nonce and hash are not 32, 32 and 64 hex digits")
	case r.Clone != "" && !IsID(r.Clone):
		return nil, errors.New("clone is not 32 hex digits")
	case len(r.Before) > maxChain:
		return nil, fmt.Errorf("%d records before: want at most %d", len(r.Before), maxChain)
	case r.Hash != r.sum():
		return nil, errors.New("its hash is not that of its content")
	}
	return &r, nil
}

// Save puts a record on the disk, whole or not at all, also across a power cut.
func (r *Record) Save(mount string) error {
	dir := filepath.Join(mount, dirName)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("continuity: %w", err)
	} else if err == nil {
		if err := atomicfile.SyncDir(mount); err != nil {
			return fmt.Errorf("continuity: %w", err)
		}
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("continuity: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(dir, fileName), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("continuity: %w", err)
	}
	return nil
}
