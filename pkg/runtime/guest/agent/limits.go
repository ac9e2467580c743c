package agent

import "time"

// MaxStreams is how many streams a session has at a time; further ones wait.
const MaxStreams = 32

// Limits of the server, over all sessions where nothing else is said. A host
// that keeps to the Client's methods meets none of them.
const (
	maxQuick     = 16 // requests at a time that end by themselves
	maxFollowers = 8  // logs followed at a time
	maxWatchers  = 4  // statuses followed at a time
	maxExecs     = 8  // programs at a time
	maxReplicas  = 4  // logs of changes read at a time

	perSecond = 100 // requests a second, after a burst of as many

	quickLimit  = 30 * time.Second // for most requests
	reloadLimit = 3 * time.Minute  // where a service's own command runs
	growLimit   = 10 * time.Minute
	helloLimit  = 30 * time.Second // for a connection's hello
	bodyLimit   = 30 * time.Second // for the host to send a body, or to take a part of an answer
	maxFreeze   = 10 * time.Minute
)
