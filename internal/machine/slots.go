package machine

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	slotsDir = "slots"
	// copying is the start of the name of a copy that is not whole yet.
	copying = ".new-"
)

// Source is a bundle to be copied.
type Source struct {
	Dir string
	// From is where it came from, for people; "" is Dir.
	From string
	// Given: the files are nobody else's, on the disk, and in the file system
	// of the state directory. They are taken as they are.
	Given bool
	// AllowRollback lets in a bundle older than the newest that was seen.
	AllowRollback bool
	// KeepData has an update keep a copy of the data disk before its trial.
	KeepData bool
}

func (s Source) from() string {
	if s.From != "" {
		return s.From
	}
	return s.Dir
}

// put puts a file of the bundle into a directory.
func (s Source) put(ctx context.Context, dir, file string) error {
	if s.Given {
		err := os.Link(filepath.Join(s.Dir, file), filepath.Join(dir, file))
		if !errors.Is(err, fs.ErrPermission) { // Android lets no app make hard links
			return fault.Wrap(fault.Environment, err)
		}
	}
	return copyArtifact(ctx, filepath.Join(dir, file), filepath.Join(s.Dir, file))
}

// copyBundle copies a bundle beside the slots, checks the copy against the
// manifest and brings it to the disk. Nothing of the instance is changed: a
// copy that is not used is removed by the next. The caller has the lock of
// copies.
func (i *Instance) copyBundle(ctx context.Context, from Source, m *bundle.Manifest) (dir string, err error) {
	parent := filepath.Join(i.dir, slotsDir)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	if err := removeCopies(parent); err != nil {
		return "", err
	}
	if dir, err = os.MkdirTemp(parent, copying); err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	for _, a := range m.Artifacts {
		if err := from.put(ctx, dir, a.File); err != nil {
			return "", err
		}
		// What is read back is what the machine will read.
		if err := bundle.VerifyArtifact(ctx, dir, a); err != nil {
			return "", err
		}
		i.r.did("copied " + a.File)
	}
	// For whoever looks later who vouched for it: nothing here reads it again.
	if text, err := bundle.Signature(from.Dir); err != nil {
		return "", err
	} else if text != nil {
		if err := atomicfile.Write(filepath.Join(dir, signature.FileName), text, 0o600); err != nil {
			return "", err
		}
	}
	// Last, so that a directory with a manifest has all that it names.
	if err := from.put(ctx, dir, bundle.ManifestFile); err != nil {
		return "", err
	}
	return dir, syncDirs(dir, parent, i.dir)
}

// removeCopies removes what a copy that was interrupted left.
func removeCopies(parent string) error {
	return removePrefixed(parent, copying)
}

// removePrefixed removes what has a name in a directory that begins so.
func removePrefixed(dir, prefix string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fault.Wrap(fault.Environment, err)
		}
	}
	return nil
}

// putSlot makes a copy the content of a slot that the record does not name.
func (i *Instance) putSlot(copied string, slot SlotName) error {
	dir := i.slotDir(slot)
	if err := os.RemoveAll(dir); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	i.r.did("removed slot")
	if err := atomicfile.Rename(copied, dir); err != nil {
		return err
	}
	i.r.did("renamed slot")
	return nil
}

// loadSlot reads the manifest of a slot and holds it to the digest in the
// record.
func loadSlot(dir, digest string) (*bundle.Manifest, error) {
	m, err := bundle.Load(dir)
	if err != nil {
		return nil, err
	}
	got, err := bundle.Digest(dir)
	if err == nil && got != digest {
		return nil, fault.Errorf(fault.Verification, "%s: expected the bundle %s, got %s", dir, digest, got).
			Hintf("install a bundle in its place with sovereign-build update")
	}
	return m, err
}

// verifySlot reads all of a slot and holds it to the record.
func (i *Instance) verifySlot(ctx context.Context, slot SlotName) error {
	dir := i.slotDir(slot)
	if _, err := loadSlot(dir, i.rec.Slots[slot].Digest); err != nil {
		return err
	}
	return bundle.Verify(ctx, dir)
}

// copyArtifact copies a file of a bundle and syncs the copy.
func copyArtifact(ctx context.Context, to, from string) (err error) {
	in, err := openArtifact(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	// A piece at a time, so that ctx can end it; the kernel copies.
	const piece = 32 << 20
	for err == nil {
		if err = context.Cause(ctx); err == nil {
			_, err = io.CopyN(out, in, piece)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	err = errors.Join(err, out.Sync(), out.Close())
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fault.Errorf(fault.Environment, "the file system of %s is full: %w", filepath.Dir(to), err).Hintf("make room there")
	}
	return fault.Wrap(fault.Environment, err)
}

// syncDirs brings directories' entries to the disk.
func syncDirs(dirs ...string) error {
	for _, dir := range dirs {
		if err := atomicfile.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// removeLitter removes the temporary files of writes that were interrupted.
// The caller has the instance's lock, so that none is being written.
func (i *Instance) removeLitter() error {
	for _, name := range []string{recordFile, bundle.ManifestFile} {
		if err := removePrefixed(i.dir, "."+name+"-"); err != nil {
			return err
		}
	}
	return nil
}

func newSlot(digest, source string) Slot {
	return Slot{Digest: digest, Source: source, Installed: time.Now().UTC().Truncate(time.Second)}
}
