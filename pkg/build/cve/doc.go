// Package cve says which known holes a bundle has.
//
// A bundle's bill of materials and a database of holes that somebody else keeps
// come in, and a list of findings goes out, also as OpenVEX. The database is a
// file: an export of OSV (a zip, a directory or a JSON file of its records) or of
// Debian's security tracker (one JSON file). Nothing is asked of a network.
//
// # What is compared
//
// Versions of sources. Packages here are made of upstream's own bytes, without
// Debian's patches, so a hole that Debian closed by a patch is open here until
// upstream's next version: a fix in a revision above 1 of the same upstream
// version counts as none. Go modules are compared by their own versions, packages
// of Alpine's repositories by apk's.
//
// A database says nothing of how a kernel was configured. Whoever knows that a
// hole needs CONFIG_X writes that down once, in a file of statements; the audit
// looks whether the bundle's own .config has it.
package cve
