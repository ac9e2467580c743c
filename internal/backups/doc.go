// Package backups is sovereignd's part in backups: which repositories a device
// knows, what is done when, and what a restore makes of what it gets. The
// repositories themselves are the program sovereign-backup's, which is started
// for one job and ends with it, so that sovereignd stays small and a backup can
// be killed.
//
// Machines come in as package machine has them, and as package runtime operates
// them; backups, machines and reports go out.
//
// # On the disk
//
//	repositories/NAME.json  in the state directory, 0600: a repository's URL and
//	                        what opens it
//	backup/NAME             sovereign-backup's settings and cache for it
//	instances/M/backup.json a machine's policy, and how its last backup and
//	                        drill ended
package backups
