// Package requests holds the JSON of requests to sovereignd and of answers that
// are nobody else's: what package runtime sends and package daemon reads. A
// limit is a number of milliseconds.
package requests

// Bundle names a bundle whose blobs the host has: its digest is its manifest's.
type Bundle struct {
	Digest string `json:"digest"`
	Source string `json:"source,omitempty"` // where it came from, for people
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

// Size is the body of …/balloon and …/grow.
type Size struct {
	Size int64 `json:"size"` // bytes
}

// Removed is the answer to DELETE /v1/machines/NAME.
type Removed struct {
	Kept string `json:"kept,omitempty"` // the data disk's path
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
