// Package wal keeps PostgreSQL's write-ahead log outside of its machine: what
// was committed between two backups.
//
// What a server sends comes in (package replication); segments go out, in files
// of PostgreSQL's own names and content, that it replays. The package knows no
// servers, no machines and no repositories.
//
// A Spool is the directory that the log goes to first, and what is confirmed to
// the server is only what is on the host's disk. A Walker reads the
// records, and holds each to its checksum and to the one before: so a log is
// known to be whole, and where which moment is in it.
//
// A log without a break is a Branch. Whatever breaks it begins another one: a
// slot that was lost, a disk that went back, a restore. So nothing is ever kept
// twice under one name, and what lies between two branches is a gap that is
// known.
package wal
