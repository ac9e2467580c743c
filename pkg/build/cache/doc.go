// Package cache shares what compile steps made between machines.
//
// What goes in is a step's key (see [Entry]) and its outputs in a store; what
// comes out is the same in another machine's store. An entry is signed by a key
// of minisign's and names each output by its digest, so that a place (a
// repository in a registry, or a directory) need not be trusted: whoever can
// write to it can only make it useless. What is forged, cut off, unsigned or
// signed by a key that nobody here trusts is refused, and the step runs.
//
// Nothing of the machine that made an entry is in it: no time, path or name.
package cache
