// Package backupjob is what sovereignd and the program sovereign-backup say to
// each other: one Job comes in on the program's standard input, as a line of
// JSON, lines of Said go out on its standard output, the last with a result or
// an error. Secrets are in the Job, and so in no argument and no environment.
//
// A backup has a word in the middle: when all of a disk has been read, the
// program says so, and goes on only when it is told, by an Answer on its
// standard input, that what it read was of one instant. So nothing is listed as
// a backup that is none.
package backupjob

import (
	"encoding/json"
	"time"

	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Program is the program's name.
const Program = "sovereign-backup"

// Verb is what is to be done.
type Verb string

// The verbs.
const (
	Init    Verb = "init"    // make the repository
	Open    Verb = "open"    // see whether it opens
	List    Verb = "list"    // the backups of Machine, or all
	Backup  Verb = "backup"  // make one
	Verify  Verb = "verify"  // read one, or all
	Restore Verb = "restore" // write one's disk, and its bundle's files
	Report  Verb = "report"  // keep the report of a drill
	Keep    Verb = "keep"    // forget what the rules do not keep, and make room
	PutLog  Verb = "put-log" // keep what is new of a service's log
	Logs    Verb = "logs"    // the logs of Machine, a branch each
	Replay  Verb = "replay"  // make an image with a log to be replayed
)

// Job is all that a run of the program is told. The fields below the first ones
// are of some verbs only.
type Job struct {
	Verb       Verb           `json:"verb"`
	Repository string         `json:"repository"` // its URL
	Secrets    backup.Secrets `json:"secrets"`
	// Dir is the program's own, for its settings and cache: 0700.
	Dir string `json:"dir"`
	// Host is the device's name in the repository.
	Host string `json:"host"`

	Machine  string `json:"machine,omitempty"`
	Snapshot string `json:"snapshot,omitempty"` // "" is the newest

	// Manifest is that of a backup, without what the program finds out.
	Manifest *backup.Manifest `json:"manifest,omitempty"`
	// Disk is the image to read from or to make; Scratch the store of a
	// snapshot over it, "" where nothing writes.
	Disk    string `json:"disk,omitempty"`
	Scratch string `json:"scratch,omitempty"`
	// BundleManifest is the file with it, to be kept, and BundleFiles are the
	// bundle's files by their names, to be read.
	BundleManifest string            `json:"bundle_manifest,omitempty"`
	BundleFiles    map[string]string `json:"bundle_files,omitempty"`
	// BundleDir is the directory that a restore makes of the bundle's files;
	// "" leaves them out.
	BundleDir string `json:"bundle_dir,omitempty"`

	// Percent of the pieces are read by a Verify; all is looked for.
	Percent float64 `json:"percent,omitempty"`

	Drill *backup.Drill `json:"drill,omitempty"`
	// Log is what is to be kept, and Spool the directory where it lies.
	Log   *backup.Log `json:"log,omitempty"`
	Spool string      `json:"spool,omitempty"`
	// Replay is what is to be replayed.
	ReplayLog *ReplayLog `json:"replay,omitempty"`
	// RecoverFor is for how long a log is kept, in seconds; 0: for ever.
	RecoverFor int64        `json:"recover_for,omitempty"`
	Rules      *backup.Keep `json:"rules,omitempty"`
}

// ReplayLog says which part of a log is to be replayed on the disk of a backup.
type ReplayLog struct {
	Base   backup.LogPosition `json:"base"`
	Target backup.Target      `json:"target"`
	// AsOf is until when nothing more is known to have been done than what the
	// spool has; zero: that is not known.
	AsOf time.Time `json:"as_of,omitzero"`
	// Image is the file to be made, and Work an empty directory beside it.
	Image string `json:"image"`
	Work  string `json:"work"`
	// ID tells one replay from another.
	ID string `json:"id"`
}

// Said is a line of the program.
type Said struct {
	// Progress, in bytes of the disk.
	Done  int64 `json:"done,omitempty"`
	Total int64 `json:"total,omitempty"`
	// Read: the disk has been read, and an Answer is waited for.
	Read bool `json:"read,omitempty"`

	Result *Result `json:"result,omitempty"`
	Error  *Error  `json:"error,omitempty"`
}

// Answer is what a program hears that has read a disk.
type Answer struct {
	// Abort is why what was read is no backup.
	Abort string `json:"abort,omitempty"`
}

// Result is how a run ended well.
type Result struct {
	Snapshots []backup.Snapshot `json:"snapshots,omitempty"`
	Manifest  *backup.Manifest  `json:"manifest,omitempty"`
	Drills    []backup.Drill    `json:"drills,omitempty"`
	Logs      []backup.Log      `json:"logs,omitempty"`
	Reached   *backup.Reached   `json:"reached,omitempty"`
	// TooEarly is why the moment of a Replay needs an older backup; "": it
	// does not.
	TooEarly string `json:"too_early,omitempty"`
	// Read is how many bytes of disks were read and held to their sums.
	Read      int64         `json:"read,omitempty"`
	Checked   int           `json:"checked,omitempty"` // backups
	Forgotten int           `json:"forgotten,omitempty"`
	Took      time.Duration `json:"took,omitempty"`
}

// Error is how it ended else.
type Error struct {
	Class fault.Class `json:"class"`
	Text  string      `json:"text"`
	Hint  string      `json:"hint,omitempty"`
}

// NewError is an error as a line has it.
func NewError(err error) *Error {
	return &Error{Class: fault.ClassOf(err), Text: err.Error(), Hint: fault.HintOf(err)}
}

// Err is the error again.
func (e *Error) Err() error {
	class := e.Class
	if class < fault.Usage || class > fault.Cancelled {
		class = fault.Internal
	}
	err := fault.Errorf(class, "%s", e.Text)
	if e.Hint != "" {
		return err.Hintf("%s", e.Hint)
	}
	return err
}

// MaxLine bounds a line of either side, in bytes.
const MaxLine = backup.MaxManifest + 1<<20

// ParseSaid reads a line of the program.
func ParseSaid(line []byte) (Said, error) {
	var s Said
	if err := json.Unmarshal(line, &s); err != nil {
		return s, fault.Errorf(fault.Internal, "%s said %.100q: %w", Program, line, err)
	}
	return s, nil
}
