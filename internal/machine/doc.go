// Package machine operates bundles as virtual machines: it starts, watches,
// reaches, stops and removes them. Package runtime has its values, and is what
// other programs import.
//
// A bundle's directory comes in (its manifest is all the runtime knows of a
// build) and a running Instance goes out. It never builds, never writes into a
// bundle, and never prints: progress goes to a callback.
//
// # Instances
//
// An instance is a directory of mode 0700 under the state directory,
// instances/NAME:
//
//	instance.json   bundle, ports, process: what this package knows
//	manifest.json   a copy of the bundle's, as it was at the start
//	data.img        the data disk: sparse (under crosvm only where that is asked
//	                for), made blank once, then never replaced
//	scratch.img     the scratch disk: what a snapshot has to keep, made anew at
//	                each start
//	console.log     what the guest printed since its start (.0: the older part,
//	                where that grew beyond 4 MiB; .1: the boot before)
//	console.sock    the same as it comes, and the way to type into it
//	machine.log     what the hypervisor printed (.1 likewise)
//	machine.lock    locked by the hypervisor as long as it lives
//	agent.sock      the way to the guest's agent, one session at a time
//	guest.sock      sovereignd's session with it, shared
//	control.sock    the runtime's way to QEMU
//	qmp.sock        the same for people and their programs
//	crosvm.json     what crosvm does not tell of the machine it runs, key.img its
//	                key: in place of console.sock, agent.sock and qmp.sock
//	slots/a, b      installed bundles
//	recovery.img    logs that a temporary machine's services replay, in the place
//	                of a scratch disk
//	log             the log of changes of its service, on its way to a repository
//	restore         a disk that is being restored, and is nobody's yet
//	data.img.before-TIME
//	                a data disk whose place a restored one has taken
//	data.img.kept   a copy of it from before the last update
//
// A machine goes on when the program that started it ends. It is found again
// by its process's number, start time and boot, or, when its starter was
// killed before it could write them down, by machine.lock and by who listens on
// its control socket; never by a pattern. A lock file per instance keeps two
// commands from changing it at once, and machine.lock and the hypervisor's own
// lock on the data disk two machines from running on it.
//
// # What is wanted
//
// Install copies a bundle into a slot and writes down that the instance is
// wanted up; Update copies another into the slot that is not active, and writes
// down a trial of it. All that follows is done by Step, one act at a time, under
// the instance's lock and from nothing but the record and what runs. Who calls
// it (sovereignd) may be killed between any two bytes: instance.json is replaced atomically, and
// whoever comes next goes on at the same line of this table. The first line
// that fits is the one; S is the trial's slot, A the active one.
//
//	wanted  trial         machine                     act, and what is written
//	any     any           runs, a disk was restored   shut down; process: none
//	any     any           not, a disk was restored    rename the old disk, then the new one; data, given up, swap: none
//	any     any           runs, a witness knows more  shut down; process: none
//	any     any           not, a witness knows more   continuity: the witness's, challenge: none
//	none    any           runs                        wanted: up, restart: never; process
//	none    any           does not                    wanted: down
//	down    any           runs                        shut down; process: none
//	down    any           does not                    nothing
//	up      any           runs, process not recorded  process (adopted)
//	up      any           runs, disk is not known yet its file system's UUID
//	up      any           held for a full host, room  goes on; for a trial, its time begins anew
//	up      any           thin, hardly any room       shut down; process: none
//	up      any           runs, disk was written to   a record on its disk; continuity
//	up      failed        runs                        shut down; process: none
//	up      failed        does not                    trial: none, outcome: back to A
//	up      failed, kept  does not                    the same, and swap: the kept copy for the disk; kept: none
//	up      failed, gone  does not                    the same, and swap: the former disk for the copy
//	up      of S          runs from A                 shut down; process: none
//	up      of S          runs from S, stays healthy  active: S, previous: A, trial: none, outcome; of gone, kept: none
//	up      of S          runs from S, held still     nothing
//	up      of S          runs from S, failed or late trial: failed, with the reason
//	up      of S          ended by itself from S      trial: failed, with the reason
//	up      of S          not, host was restarted     process: none
//	up      of S          not, three attempts made    trial: failed
//	up      of S          not, kept from it for long  trial: failed
//	up      of S          not, kept from it, pause    nothing yet
//	up      of S, keep    not                         copy the data disk; kept, trial: kept; or trial: failed
//	up      of S, back    not                         swap: the kept copy for the disk, given up, trial: gone
//	up      of S          not                         attempt+1, process: none; start S; process
//	up      none          runs, mute for 5 minutes    power cut; process: none, ends+1, ends in a row+1
//	up      none          runs, healthy for a minute  ends in a row: 0
//	up      none          runs                        nothing
//	up      none          ended by itself             process: none, ends+1, ends in a row+1; without a slot, wanted: down
//	up      none          not, kept from it, pause    nothing yet
//	up      none          not, ends of another boot   ends in a row: 0
//	up      none          not, too many ends in a row nothing: given up until Up
//	up      none          not, pause not over         nothing yet
//	up      none          not                         process: none; start A; process
//
// Nothing is wanted of what an older version started from a bundle's directory:
// it is taken over once, and until Up copies that directory into a slot there is
// nothing to start it from.
//
// A start that fails is written down as an end, or as the trial's failure; one
// that the host is to blame for (fault.Environment: no room, a port in use, a
// data disk that is not there) as what is waited for: with pauses of up to a
// minute, for ever or for the trial's limit. Times are measured by the host's
// time awake, which nobody sets, and a moment of another boot is no reason to
// wait. Healthy are the guest's services, whatever is wrong around them; those
// of a trial have to stay so for half a minute, with the optional ones that were
// healthy before.
//
// The active slot changes in one line only, in one write, when the new one has
// proven itself; until then its directory is not touched, so that there is at
// every moment one that boots. The slot of an update is filled in this order,
// each on the disk before the next: copy under another name, verify the copy,
// forget the slot in the record, remove its directory, rename the copy, record
// slot and trial. The data disk is only looked at: nothing here writes to it
// but its creation, which happens once. A copy of it that an update keeps is of a
// machine that is down, and goes when its bundle's slot does.
//
// # Parts
//
// The words that drivers share are in package vm; packages qemu and crosvm are the
// hypervisors.
package machine
