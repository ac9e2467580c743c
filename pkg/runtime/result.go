package runtime

// StopResult says how a machine came to its end.
type StopResult struct {
	// WasRunning is false when there was nothing to stop.
	WasRunning bool `json:"was_running"`
	// Forced is set when the guest did not shut down in order and its power
	// was cut; Why says what had gone wrong. Services then recover at the next
	// start as after a crash.
	Forced  bool    `json:"forced"`
	Why     string  `json:"why,omitempty"`
	Seconds float64 `json:"seconds"`
}

// Grown is what Grow did, in bytes.
type Grown struct {
	Before int64 `json:"before"`
	Size   int64 `json:"size"`
	// Online: the file system has the room already. Else the machine does not
	// run, and its guest takes the room at its next boot.
	Online bool `json:"online"`
}

// Memory is the memory of a running guest, in bytes.
type Memory struct {
	// Now is what it has, without what it gave back.
	Now int64 `json:"now"`
	// Max is what it was started with.
	Max int64 `json:"max"`
}

// A LogLine is a line of a service's output, without its line feed. It is as
// the service wrote it: not fit to be printed on a terminal as it is.
type LogLine struct {
	Service string `json:"service"`
	Text    string `json:"text"`
}

// A SecretRef names a secret of a service.
type SecretRef struct {
	Service string `json:"service"`
	Name    string `json:"name"`
}
