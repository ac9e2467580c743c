// Package vault keeps backups of machines in kopia's repositories.
//
// A Job comes in, of sovereignd's, and a result goes out. It reads a disk's
// image and writes another; it knows no machines, and starts none.
//
// # How a disk is kept
//
// The disk is one file of a kopia snapshot, so that the program kopia restores
// it. It is read in pieces that begin at multiples of 64 MiB, so that they are
// the same in each backup, and kept in blocks of 128 KiB, kopia's smallest fixed
// size: a database writes here and there, and what is kept of a change is the
// block around it. Holes are not read; they are references to blocks of zeros,
// which the repository has once.
//
// # Killed anywhere
//
// What was sent is entered into the repository's index every 128 MiB, and the
// backup itself at the very end, when everything it leads to is there. So a
// backup that was killed leaves none, and the next one finds most of its blocks
// there already. What nothing leads to is removed by kopia's maintenance, a day
// later at the earliest.
package vault
