// Package witnesses tells witnesses elsewhere of the histories of machines' data
// disks, and holds a machine's services where one of them knows better than its
// host.
//
// A machine's record (internal/machine) says where its disk is, store first; its
// witnesses are told second. What comes out are a machine's challenge, which the
// next start holds the disk to, words for its status, and a file witness.json in
// the machine's directory: who is told, by which token, and what each has signed.
//
// # The judgement
//
// At the start of each machine, and where a witness does not take what it is
// told, it is asked what it keeps (K), and the guest what its disk is against
// that: it has the last records' hashes. judge looks at these, at what the
// witness has signed before (signed) or was being told when the answer was lost
// (told), and at nothing else; the first line that fits is the one.
//
//	K        of old           the disk, against K               judgement
//	nothing  nothing signed   any                               tell
//	nothing  something signed any                               older
//	K        signed behind K  equal or ahead, K never told      older
//	K        any              equal or ahead                    tell
//	K        given up         any other                         supersede
//	K        signed or told   forked, K before all it remembers tell
//	K        signed behind K  forked, K before all it remembers older
//	K        nothing signed   forked, K before all it remembers tell
//	K        any              any other                         hold
//
// older: the witness was put back to what it had been, or lies. That is said,
// held against it, and is no reason to stop anybody's services; it is told again.
// supersede: the disk's owner has given K's history up, by a restore or
// accept-rollback: the disk gets a record that goes on behind K, and the witness
// is told of that. hold: services are stopped in order, and the machine is
// started anew with K as what it is held to.
//
// A witness that is away is said to be, and nothing more; whose answer is not
// signed by its key, is no witness.
package witnesses

import (
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/continuity"
)

type point = continuity.Point

type judgement int

const (
	tell judgement = iota
	older
	supersede
	hold
)

// memory is what is known of a witness: what it has signed last, and what it was
// being told when its answer was lost.
type memory struct{ signed, told *point }

func (m memory) has(k point) bool {
	return m.signed != nil && *m.signed == k || m.told != nil && *m.told == k
}

// judge is the table in the package comment.
func judge(m memory, k *point, disk agent.Compared, givenUp bool) judgement {
	if k == nil {
		if m.signed != nil {
			return older
		}
		return tell
	}
	back := m.signed != nil && k.Epoch < m.signed.Epoch && !m.has(*k)
	beyond := disk.Verdict == continuity.Forked && k.Epoch < disk.Oldest
	switch {
	case disk.Verdict == continuity.Equal || disk.Verdict == continuity.Ahead:
		if back {
			return older
		}
		return tell
	case givenUp:
		return supersede
	case beyond && back:
		return older
	case beyond && (m.has(*k) || m.signed == nil):
		return tell
	}
	return hold
}
