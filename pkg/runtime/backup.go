package runtime

import (
	"time"

	"github.com/sovereign-build/sovereign/pkg/backup"
)

// What Progress is of.
const (
	ProgressBackup  = "backup"
	ProgressRestore = "restore"
	ProgressVerify  = "verify"
)

// Progress is how far something that takes time has come, in bytes.
type Progress struct {
	Verb  string `json:"verb"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
}

// BackupStatus is what is known of a machine's backups.
type BackupStatus struct {
	Policy *backup.Policy `json:"policy,omitempty"`
	// Last is the newest backup that this device made, and Proven the newest
	// restore that a drill has proven; nil: none.
	Last   *BackupDone `json:"last,omitempty"`
	Proven *BackupDone `json:"proven,omitempty"`
	// Alarms are in words; none: all is as the policy has it.
	Alarms []string `json:"alarms,omitempty"`
}

// BackupDone is a backup or a drill.
type BackupDone struct {
	Snapshot string    `json:"snapshot"`
	At       time.Time `json:"at"`
	TookS    float64   `json:"took_s"`
}

// Verified is what was found to be whole.
type Verified struct {
	Backups int     `json:"backups"`
	Read    int64   `json:"read"` // bytes of disks, each held to its sum
	TookS   float64 `json:"took_s"`
}

// RestoreResult is what a restore made.
type RestoreResult struct {
	Machine  string    `json:"machine"`
	Snapshot string    `json:"snapshot"`
	From     string    `json:"from"` // NAME@ID of REPOSITORY
	Taken    time.Time `json:"taken"`
	Bundle   string    `json:"bundle"` // digest
	Read     int64     `json:"read"`   // bytes of the disk, each held to its sum
	// Kept is the path of the disk that the machine had, on the host.
	Kept  string   `json:"kept,omitempty"`
	Notes []string `json:"notes,omitempty"` // for people
	TookS float64  `json:"took_s"`
}
