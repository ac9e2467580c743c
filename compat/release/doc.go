// Package release holds what a release says of itself to programs that others
// wrote: CycloneDX's own JSON Schema, the reader of SPDX's project, DSSE and
// in-toto of theirs, minisign's file format, and crane and oras on what is
// pushed. It is a module of its own, so that nobody else gets what it needs.
package release
