// Package requests holds the JSON of requests to sovereignd and of answers that
// are nobody else's: what package runtime sends and package daemon reads. A
// limit is a number of milliseconds.
package requests

// Bundle names a bundle whose blobs the host has: its digest is its manifest's.
type Bundle struct {
	Digest string `json:"digest"`
	Source string `json:"source,omitempty"` // where it came from, for people
	// Signature is the text of the bundle's signature, where it has one.
	Signature string `json:"signature,omitempty"`
}

// Install is the body of PUT /v1/machines/NAME.
type Install[Options any] struct {
	Bundle  Bundle  `json:"bundle"`
	Options Options `json:"options"`
}

// Update is the body of …/update, and without a bundle of …/rollback.
type Update struct {
	Bundle  *Bundle `json:"bundle,omitempty"`
	LimitMS int64   `json:"limit_ms,omitempty"` // 0: the default
	// AllowRollback lets an older bundle in.
	AllowRollback bool `json:"allow_rollback,omitempty"`
	// KeepData has an update keep a copy of the data disk; WithData has a
	// rollback go back to that.
	KeepData bool `json:"keep_data,omitempty"`
	WithData bool `json:"with_data,omitempty"`
}

// Begun is the answer to both.
type Begun[Status any] struct {
	// Result is how it has ended already: "unchanged" or "cancelled"; "" where
	// there is something to be tried.
	Result string `json:"result,omitempty"`
	// To is the digest of the bundle that is tried.
	To     string   `json:"to,omitempty"`
	Notes  []string `json:"notes,omitempty"` // for people
	Status Status   `json:"status"`
}

// Stop is the body of …/down and …/restart.
type Stop struct {
	GraceMS int64 `json:"grace_ms,omitempty"` // 0: the default
}

// Size is the body of …/balloon and …/grow, and the answer to DELETE …/kept-data.
type Size struct {
	Size int64 `json:"size"` // bytes
}

// Removed is the answer to DELETE /v1/machines/NAME.
type Removed struct {
	Kept string `json:"kept,omitempty"` // the data disk's path
}

// Reason is the body of …/accept-rollback.
type Reason struct {
	Reason string `json:"reason"`
}

// Phone is the body of POST /v1/phone. What is absent stays as it is.
type Phone struct {
	Floor *Floor `json:"floor,omitempty"`
	// PhantomOff has the phone end no phantom process any more, or puts back what
	// was.
	PhantomOff *bool `json:"phantom_off,omitempty"`
}

// Floor is at what machines are shut down in order; 0 is none.
type Floor struct {
	Battery int `json:"battery,omitempty"` // percent
	Celsius int `json:"celsius,omitempty"` // of the battery
}

// Name is the body of …/rename.
type Name struct {
	Name string `json:"name"`
}

// Line is what a host says on a raw stream of long work, one JSON object a line:
// how far it is, and last, with Over, how it ended.
type Line struct {
	Done  int64 `json:"done,omitempty"`  // bytes
	Total int64 `json:"total,omitempty"` // bytes
	Over  bool  `json:"over,omitempty"`
	// Class, Error and Hint are of work that failed.
	Class int    `json:"class,omitempty"`
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
	// Name, From and Size are of a machine that was made.
	Name string `json:"name,omitempty"`
	From string `json:"from,omitempty"`
	Size int64  `json:"size,omitempty"` // bytes
	// HoldMS is for how long its writes were held, in milliseconds.
	HoldMS float64 `json:"hold_ms,omitempty"`
}

// AddRepository is the body of PUT /v1/repositories/NAME.
type AddRepository[Secrets any] struct {
	URL        string  `json:"url"`
	Secrets    Secrets `json:"secrets"`
	Initialize bool    `json:"initialize,omitempty"`
}

// RepositoryAdded is the answer.
type RepositoryAdded struct {
	Key string `json:"key"`
}

// Backup is the body of …/backup.
type Backup struct {
	Repository string `json:"repository,omitempty"`
	Bundle     bool   `json:"bundle,omitempty"`
}

// Verify is the body of POST /v1/backups/verify.
type Verify struct {
	Machine    string  `json:"machine,omitempty"`
	Snapshot   string  `json:"snapshot,omitempty"`
	Repository string  `json:"repository,omitempty"`
	Percent    float64 `json:"percent,omitempty"`
}

// Restore is the body of POST …/restore: of the machine that is made, or whose
// disk another takes the place of.
type Restore struct {
	Machine    string  `json:"machine"`
	Snapshot   string  `json:"snapshot,omitempty"`
	Repository string  `json:"repository,omitempty"`
	InPlace    bool    `json:"in_place,omitempty"`
	Bundle     *Bundle `json:"bundle,omitempty"`
	// Replay: the log is replayed, to the moment To (RFC 3339), the place LSN,
	// the restore point Point, or its end.
	Replay bool   `json:"replay,omitempty"`
	To     string `json:"to,omitempty"`
	LSN    string `json:"lsn,omitempty"`
	Point  string `json:"point,omitempty"`
}

// Recover is the body of POST …/recover.
type Recover struct {
	Repository string `json:"repository,omitempty"`
}

// Forgotten is the answer to DELETE …/restore.
type Forgotten struct {
	Disks int `json:"disks"`
}

// Drill is the body of …/drill.
type Drill struct {
	Snapshot   string `json:"snapshot,omitempty"`
	Repository string `json:"repository,omitempty"`
	NoLog      bool   `json:"no_log,omitempty"`
}

// Policy is the body of …/backup-policy.
type Policy[P any] struct {
	Policy *P `json:"policy,omitempty"`
}

// Witness is the body of PUT …/witnesses.
type Witness struct {
	URL   string `json:"url"`
	Token string `json:"token"`
	Key   string `json:"key,omitempty"`
}

// WitnessAdded is the answer.
type WitnessAdded struct {
	Key string `json:"key"`
}
