package ext4

import (
	"cmp"
	"slices"
)

// claims are the blocks in use, to find one that is used twice.
type claims struct {
	// blocks that hold pointers or names: found out at once, or a loop of
	// them would be read for ever.
	pointers map[uint64]struct{}
	// attributes are the blocks of extended attributes, which inodes may
	// share, with the number of inodes that have them.
	attributes map[uint64]uint32
	runs       []run // all others
}

func newClaims() claims {
	return claims{pointers: map[uint64]struct{}{}, attributes: map[uint64]uint32{}}
}

// claimBlock takes a block that holds pointers or names.
func (m *image) claimBlock(block uint64) error {
	if _, ok := m.pointers[block]; ok {
		return damaged("block %d is used twice", block)
	}
	if err := m.charge(costBlock); err != nil {
		return err
	}
	m.pointers[block] = struct{}{}
	return nil
}

// claimRun takes blocks that hold anything else.
func (m *image) claimRun(r run) error {
	if !m.inside(r) {
		return damaged("blocks %d to %d are outside the file system", r.start, r.end()-1)
	}
	m.runs = append(m.runs, r)
	return m.charge(costExtent)
}

// inside says whether blocks are among those of the file system.
func (m *image) inside(r run) bool {
	return r.start >= m.firstBlock && r.start < m.blockCount && r.n <= m.blockCount-r.start
}

// checkClaims compares every claim with every other.
func (m *image) checkClaims() error {
	all := m.runs
	for block := range m.pointers {
		all = append(all, run{block, 1})
	}
	for block := range m.attributes {
		all = append(all, run{block, 1})
	}
	slices.SortFunc(all, func(a, b run) int { return cmp.Compare(a.start, b.start) })
	for i := 1; i < len(all); i++ {
		if all[i].start < all[i-1].end() {
			return damaged("block %d is used twice", all[i].start)
		}
	}
	return nil
}
