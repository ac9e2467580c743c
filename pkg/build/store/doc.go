// Package store keeps bytes under their own SHA-256 digest in one directory,
// and remembers which step made which bytes.
//
// Bytes and digests come in; read-only files named by digest go out. A file is
// in the store whole, synced to disk and with the digest it is named by, or it
// is not there: everything is written to a temporary file first and renamed.
// Any number of processes may use one directory at once without talking to
// each other, because equal names mean equal bytes.
//
// The action cache beside the blobs maps the digest of a step's inputs to the
// digests of its outputs. It holds no bytes of its own; an action whose
// outputs have gone counts as absent.
//
// The package never fetches anything and never changes a blob. Only Collect
// and Verify remove blobs, when they are asked to: those that nothing names and
// nobody uses, and those that are damaged. Temporary files left by a crash are
// cleaned when they are old and no process holds them.
//
// Layout of the directory:
//
//	blobs/sha256/ab/abcd…   one blob, mode 0444
//	actions/KEY.json        one Action
//	names/HEX               key of the last action of a step name
//	roots/HEX.json          one Root: a lock or bundle that names blobs
//	sessions/use-…          what a process uses, locked by it
//	lock, gc.lock           see session.go
//	tmp/                    files being written, each locked by its writer
package store
