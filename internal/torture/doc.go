// Package torture breaks running machines on purpose and counts what they lost
// and how long they took to be well again.
//
// A bundle, a number of rounds and a seed come in; a Report goes out, with a
// row for each kind of fault. Machines are started, watched and stopped through
// internal/machine alone, as any other program would; only the faults come from
// outside it: QEMU is killed, its network cut, its disk full, its clock wrong.
//
// # What is held to be true
//
// Writers commit rows and write down, on this machine, what they sent and what
// the guest acknowledged (commitLog). After each fault every acknowledged row
// must be there exactly once and whole, no row that was never sent, and of
// those sent without an answer whatever is found once must stay. Beside them
// pgbench moves money between accounts, whose sums must agree.
//
// # Choices
//
// Every choice comes from the seed. When a fault comes is also a matter of
// this machine's speed, so that a seed repeats the plan, not the microsecond.
//
// The package never touches an instance outside its own scratch directory.
package torture
