package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Names of the files of a backup.
const (
	ManifestFile = "machine.json"
	DiskFile     = "data.img"
	BundleFile   = "bundle.json" // the bundle's own manifest
	BundleDir    = "bundle"
	DrillFile    = "drill.json"
)

// Schema is the version of Manifest that this package writes.
const Schema = 1

// MaxManifest bounds a manifest, in bytes: a million pieces have half.
const MaxManifest = 128 << 20

// Manifest is machine.json.
type Manifest struct {
	Schema  int       `json:"schema"`
	Machine string    `json:"machine"`
	Host    string    `json:"host"`  // the device's name
	Taken   time.Time `json:"taken"` // the instant, by the device's clock
	// Live: the machine ran, and the disk is that of an instant, as a power cut
	// leaves it. Else it was down. HoldMS is for how long writes were held.
	Live   bool    `json:"live"`
	HoldMS float64 `json:"hold_ms,omitempty"`
	Bundle Bundle  `json:"bundle"`
	// Options are the machine's, of runtime.Options; there is no secret in them.
	Options json.RawMessage `json:"options,omitempty"`
	Disk    Disk            `json:"disk"`
	// Marks is what services said of their state, each by the words of its
	// recipe: a drill compares them.
	Marks map[string]string `json:"marks,omitempty"`
	// Continuity is the disk's place in its history, where its guest keeps one,
	// as runtime.Continuity.
	Continuity json.RawMessage `json:"continuity,omitempty"`
	// Log is where the service with a log was in it; nil where none was kept.
	Log *LogPosition `json:"log,omitempty"`
	// Stored is what the repository was given for it, in bytes: compressed, and
	// without what it had.
	Stored int64 `json:"stored"`
}

// Bundle is what the machine ran.
type Bundle struct {
	Name   string `json:"name"`
	Arch   string `json:"arch"`
	Digest string `json:"digest"` // of its manifest
	// Whole: its files are in the backup.
	Whole bool `json:"whole,omitempty"`
}

// Disk is the data disk.
type Disk struct {
	Size       int64  `json:"size"`                  // bytes
	FileSystem string `json:"file_system,omitempty"` // its UUID
	// Pieces are what was read of it, in order; all else is zeros.
	Pieces []Piece `json:"pieces"`
}

// Piece is a part of the disk, with the digest of what was read from it: made
// before the repository had it, it holds against whatever goes wrong there.
type Piece struct {
	Offset int64  `json:"offset"`
	Length int64  `json:"length"`
	SHA256 string `json:"sha256"` // hex
}

// Used is what the pieces add up to, in bytes.
func (d Disk) Used() (n int64) {
	for _, p := range d.Pieces {
		n += p.Length
	}
	return n
}

// Parse reads machine.json and holds it to its limits. Errors are of class
// fault.Verification.
func Parse(text []byte) (*Manifest, error) {
	var m Manifest
	if len(text) > MaxManifest {
		return nil, fault.Errorf(fault.Verification, "%s has more than %d bytes", ManifestFile, MaxManifest)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fault.Errorf(fault.Verification, "%s: %w", ManifestFile, err)
	}
	if err := m.check(); err != nil {
		return nil, fault.Errorf(fault.Verification, "%s: %w", ManifestFile, err)
	}
	return &m, nil
}

var (
	machineForm = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	digestForm  = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	sumForm     = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// maxDisk is the largest data disk, as package machine has it.
const maxDisk = 16 << 40

func (m *Manifest) check() error {
	switch {
	case m.Schema > Schema:
		return fault.Errorf(fault.Verification, "schema %d is newer than this program", m.Schema).Hintf("use a newer one")
	case m.Schema < 1:
		return fault.Errorf(fault.Verification, "schema %d is none", m.Schema)
	case !machineForm.MatchString(m.Machine):
		return fault.Errorf(fault.Verification, "machine %.80q has no name of one", m.Machine)
	case !digestForm.MatchString(m.Bundle.Digest):
		return fault.Errorf(fault.Verification, "bundle %.80q is no digest", m.Bundle.Digest)
	case m.Disk.Size < 0 || m.Disk.Size > maxDisk:
		return fault.Errorf(fault.Verification, "a disk of %d bytes", m.Disk.Size)
	}
	at := int64(0)
	for n, p := range m.Disk.Pieces {
		if p.Offset < at || p.Length < 1 || p.Length > m.Disk.Size-p.Offset || !sumForm.MatchString(p.SHA256) {
			return fault.Errorf(fault.Verification, "piece %d of the disk, %d bytes at %d, is not behind the one before and within the disk, or has no sum", n, p.Length, p.Offset)
		}
		at = p.Offset + p.Length
	}
	return nil
}

// Snapshot is what a list says of a backup.
type Snapshot struct {
	ID      string    `json:"id"`
	Machine string    `json:"machine"`
	Host    string    `json:"host"`
	At      time.Time `json:"at"`
	Live    bool      `json:"live"`
	Bundle  string    `json:"bundle"` // digest
	Whole   bool      `json:"whole"`  // with the bundle's files
	Size    int64     `json:"size"`   // of the disk, bytes
	Read    int64     `json:"read"`   // of it, but for its holes
	Stored  int64     `json:"stored"` // by the repository: what it had not, compressed
	HoldMS  float64   `json:"hold_ms,omitempty"`
	// Log is where the service with a log was in it: from there on any moment
	// can be restored for which the log is there; nil: none.
	Log *LogPosition `json:"log,omitempty"`
	// Proven is the last drill that passed; nil: none yet.
	Proven *Proof `json:"proven,omitempty"`
}

// Proof is that a restore worked.
type Proof struct {
	At   time.Time `json:"at"`
	Took float64   `json:"took_s"` // from nothing to services that are healthy
}

// Drill is drill.json, the report of a restore that was tried.
type Drill struct {
	Schema   int       `json:"schema"`
	Snapshot string    `json:"snapshot"`
	Machine  string    `json:"machine"`
	Host     string    `json:"host"` // where it was tried
	Taken    time.Time `json:"taken"`
	At       time.Time `json:"at"`
	Passed   bool      `json:"passed"`
	RestoreS float64   `json:"restore_s"` // until the disk was there
	BootS    float64   `json:"boot_s"`    // until its services were healthy
	TookS    float64   `json:"took_s"`    // all of it, checks too
	Read     int64     `json:"read"`      // bytes of the disk, each held to its sum
	// Log is how far the log was replayed; nil: it was not.
	Log    *Reached `json:"log,omitempty"`
	Checks []Check  `json:"checks"`
	// Digest is of the report with this field empty, and Previous that of the
	// report before: a report that is changed or taken out is seen.
	Digest   string `json:"digest"`
	Previous string `json:"previous,omitempty"`
}

// Check is one thing that a drill looked at.
type Check struct {
	Name    string  `json:"name"`
	Passed  bool    `json:"passed"`
	Skipped string  `json:"skipped,omitempty"` // why it was not looked at
	Said    string  `json:"said,omitempty"`
	Seconds float64 `json:"seconds"`
}

// Seal fills in the digest.
func (d *Drill) Seal(previous string) error {
	d.Schema, d.Previous = Schema, previous
	sum, err := d.sum()
	d.Digest = sum
	return err
}

func (d Drill) sum() (string, error) {
	d.Digest = ""
	text, err := json.Marshal(d)
	if err != nil {
		return "", fault.Wrap(fault.Internal, err)
	}
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// Check says whether the report is what its digest says.
func (d Drill) Check() error {
	sum, err := d.sum()
	if err == nil && sum != d.Digest {
		err = fault.Errorf(fault.Verification, "the report of the drill at %s was changed: it has the digest %.80s, and is %s", d.At.Format(time.RFC3339), d.Digest, sum)
	}
	return err
}

// Step looks at one thing, and returns what is wrong with it.
func (d *Drill) Step(name string, look func() (said string, err error)) error {
	begin := time.Now()
	said, err := look()
	c := Check{Name: name, Passed: err == nil, Said: said, Seconds: float64(time.Since(begin).Milliseconds()) / 1000}
	if err != nil {
		c.Said = err.Error()
	}
	d.Checks = append(d.Checks, c)
	d.Judge()
	return err
}

// Judge sums the checks up.
func (d *Drill) Judge() {
	d.Passed = len(d.Checks) > 0
	for _, c := range d.Checks {
		d.Passed = d.Passed && (c.Passed || c.Skipped != "")
	}
}

// Skip notes what was not looked at.
func (d *Drill) Skip(name, why string) {
	d.Checks = append(d.Checks, Check{Name: name, Skipped: why})
}

// Failed is what was wrong, of class fault.Verification; nil where all passed.
func (d Drill) Failed() error {
	if d.Passed {
		return nil
	}
	for _, c := range d.Checks {
		if !c.Passed && c.Skipped == "" {
			return fault.Errorf(fault.Verification, "the restore of %s@%s is not proven: %s: %s", d.Machine, d.Snapshot, c.Name, c.Said).
				Hintf("try an older backup, and make a new one")
		}
	}
	return fault.Errorf(fault.Verification, "the restore of %s@%s is not proven: nothing was looked at", d.Machine, d.Snapshot)
}
