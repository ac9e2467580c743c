package runtime

import "time"

// SnapshotInfo is what is known of a snapshot of a machine's data disk.
type SnapshotInfo struct {
	Machine string    `json:"machine"`
	At      time.Time `json:"at"`
	// Live: the machine ran, and its guest took it. Else the machine was down,
	// and is kept so until the snapshot is released.
	Live bool `json:"live"`
	// HoldMS is for how long the guest's writes were held, in milliseconds; 0
	// where nothing ran.
	HoldMS float64 `json:"hold_ms,omitempty"`
	Size   int64   `json:"size"` // of the disk, in bytes
	// Bundle is the digest of the bundle that the machine runs.
	Bundle string `json:"bundle,omitempty"`
	// Continuity is where the disk was in its history; nil where it has none
	// yet.
	Continuity *Continuity `json:"continuity,omitempty"`
	// Marks is, by service, what a copy is told by: the recipe's own words.
	Marks map[string]string `json:"marks,omitempty"`
	// Notes are of what services were asked for before and did not do.
	Notes []string `json:"notes,omitempty"`
}
