package witness

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/flock"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/continuity"
)

const (
	keyFile     = "key"
	lineagesDir = "lineages"
	// maxFile bounds a file of the directory, in bytes.
	maxFile = 1 << 10
	// maxLineages bounds those that are kept: some 4 KiB of disk each.
	maxLineages = 1 << 20
)

// Witness is a directory with what is remembered.
type Witness struct {
	dir    string
	lock   *flock.Lock
	signer note.Signer
	// Verifier is the public key that answers are held to, as package note has
	// it: "sovereign-witness+HASH+KEY".
	Verifier string
	now      func() time.Time

	locks [256]sync.Mutex // of lineages, by their first two digits
	count atomic.Int64
}

var (
	errLineage = errors.New("lineage: want 32 hex digits")
	errOwner   = errors.New("another token told of this lineage first")
	errFull    = errors.New("this witness keeps no further lineage")
)

// New opens a directory, and makes it, with a key of its own, where it is not
// there. Another witness of the same directory is an error of class fault.Usage.
func New(dir string) (w *Witness, err error) {
	if err := os.MkdirAll(filepath.Join(dir, lineagesDir), 0o700); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	none, cancel := context.WithCancel(context.Background())
	cancel() // whoever has it has it for long
	lock, err := flock.AcquireDir(none, dir)
	if err != nil && none.Err() != nil && errors.Is(err, context.Canceled) {
		return nil, fault.Errorf(fault.Usage, "another witness runs in %s", dir).Hintf("end that one, or give another directory")
	}
	if err != nil {
		return nil, err
	}
	w = &Witness{dir: dir, lock: lock, now: time.Now}
	if err := w.open(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return w, nil
}

func (w *Witness) open() error {
	text, err := read(filepath.Join(w.dir, keyFile))
	if errors.Is(err, fs.ErrNotExist) {
		// Without its key and with what it has said it is another one.
		if entries, dirErr := os.ReadDir(filepath.Join(w.dir, lineagesDir)); dirErr != nil || len(entries) > 0 {
			return fault.Errorf(fault.Environment, "%s has lineages and no key: whom it has answered would not know it again: %w", w.dir, errors.Join(dirErr, err)).
				Hintf("put the file %s back", keyFile)
		}
		text, err = w.newKey()
	}
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	private, public, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	if w.signer, err = note.NewSigner(private); err == nil {
		_, err = note.NewVerifier(public)
	}
	if err != nil {
		return fault.Errorf(fault.Environment, "%s: %w", filepath.Join(w.dir, keyFile), err)
	}
	w.Verifier = public
	entries, err := os.ReadDir(filepath.Join(w.dir, lineagesDir))
	w.count.Store(int64(len(entries)))
	return fault.Wrap(fault.Environment, err)
}

func (w *Witness) newKey() ([]byte, error) {
	private, public, err := note.GenerateKey(rand.Reader, KeyName)
	if err != nil {
		return nil, err
	}
	text := []byte(private + "\n" + public + "\n")
	return text, atomicfile.Write(filepath.Join(w.dir, keyFile), text, 0o600)
}

// Close lets another witness have the directory.
func (w *Witness) Close() error { return w.lock.Close() }

// ask says what is kept of a lineage; of another owner's that is errOwner.
func (w *Witness) ask(owner, lineage string) (kept, error) {
	if !continuity.IsID(lineage) {
		return kept{}, errLineage
	}
	defer w.locked(lineage)()
	return w.load(owner, lineage)
}

func (w *Witness) locked(lineage string) (unlock func()) {
	n, _ := strconv.ParseUint(lineage[:2], 16, 8) // they are digits
	w.locks[n].Lock()
	return w.locks[n].Unlock
}

// tell takes a record, if Decide says so: it stands on the disk then. What is
// kept afterwards is returned in any case.
func (w *Witness) tell(owner, lineage string, t Told) (Verdict, kept, error) {
	if !continuity.IsID(lineage) {
		return "", kept{}, errLineage
	}
	defer w.locked(lineage)()
	k, err := w.load(owner, lineage)
	if err != nil {
		return "", k, err
	}
	v := Decide(k.point, t.From, t.To)
	if v != Kept || k.point != nil && *k.point == t.To {
		return v, k, nil
	}
	if k.point == nil && w.count.Load() >= maxLineages {
		return "", k, errFull
	}
	next := kept{owner, &t.To, w.now().UTC().Truncate(time.Second)}
	if err := atomicfile.Write(w.path(lineage), next.line(), 0o600); err != nil {
		return "", k, err
	}
	if k.point == nil {
		w.count.Add(1)
	}
	return v, next, nil
}

func (w *Witness) path(lineage string) string { return filepath.Join(w.dir, lineagesDir, lineage) }

func (w *Witness) load(owner, lineage string) (kept, error) {
	text, err := read(w.path(lineage))
	if errors.Is(err, fs.ErrNotExist) {
		return kept{}, nil
	}
	if err != nil {
		return kept{}, err
	}
	k, err := parseKept(text)
	if err != nil {
		return kept{}, fmt.Errorf("%s: %w", w.path(lineage), err)
	}
	if k.owner != owner {
		return kept{}, errOwner
	}
	return k, nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return text, err
}
