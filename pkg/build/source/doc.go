// Package source brings the inputs that a lock names into the content store,
// and makes the lock's entries.
//
// A lock comes in; verified bytes in the store go out, each by its digest from
// the first mirror that has it: upstream by https, then the Debian archive
// that this machine's own apt is set up for. Downloads run in parallel, are
// resumed after an interruption, and cost one attempt a run for a host that
// cannot be reached. Go modules come by the go command, whose checksum
// database and go.sum verify them.
//
// The package never takes bytes whose digest is not the locked one, never
// writes into the user's apt, Go or project directories, never touches the
// network for what the store holds, and prints nothing: progress goes to a
// callback.
//
// Which bytes are right is decided by digest alone, so a Debian mirror may be
// plain http. What a new lock entry says is decided by apt, which checks the
// archive's signatures.
package source
