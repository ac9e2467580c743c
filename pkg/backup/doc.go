// Package backup has the values of backups: where they go, what one of them
// holds, and what is known of it. They are what sovereignd, the program
// sovereign-backup and other programs say to each other; package runtime has the
// verbs.
//
// A repository is kopia's (https://kopia.io), always encrypted. A backup in it
// is a snapshot, a directory of these files, which the program kopia lists,
// verifies and restores as any other:
//
//	machine.json  the Manifest: what is needed besides to have the machine again
//	data.img      the data disk as it was at one instant
//	bundle.json   the manifest of the bundle that the machine ran
//	bundle/       the bundle's files, where they were asked for
//
// and a report of a restore that was proven is one of a single file, drill.json.
package backup
