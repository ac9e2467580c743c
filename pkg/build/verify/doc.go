// Package verify checks a bundle, or a release of several, and says line by line
// what it looked at.
//
// A directory comes in and a list of checks goes out, in the order in which they
// were made; the first that fails is the last. It reads the directory alone: no
// network, no cache, no machine's state. What it could not look at, because it is
// not there or was not asked for, it says as well.
package verify
