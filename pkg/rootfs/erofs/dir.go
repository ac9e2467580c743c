package erofs

import (
	"encoding/binary"
	"path"
	"slices"
	"strings"
)

// dirent is a name in a directory.
type dirent struct {
	name string
	node int32 // position in plan.nodes
}

// names are the entries of a directory in the order the kernel searches them:
// by bytes, "." and ".." among them.
func (p *plan) names(d int32) []dirent {
	list := make([]dirent, 0, len(p.children[d])+2)
	list = append(list, dirent{".", d}, dirent{"..", p.nodes[d].parent})
	for _, c := range p.children[d] {
		list = append(list, dirent{path.Base(c.path), c.node})
	}
	slices.SortFunc(list, func(a, b dirent) int { return strings.Compare(a.name, b.name) })
	return list
}

// dirBlocks calls yield with what each block of a directory holds.
func dirBlocks(list []dirent, yield func(part []dirent, size int)) {
	start, size := 0, 0
	for i, e := range list {
		n := direntSize + len(e.name)
		if size+n > BlockSize {
			yield(list[start:i], size)
			start, size = i, 0
		}
		size += n
	}
	yield(list[start:], size)
}

// dirSize is the length of a directory: whole blocks, then what is in the last
// one.
func dirSize(list []dirent) (size int64) {
	dirBlocks(list, func(_ []dirent, n int) {
		size = (size+BlockSize-1)/BlockSize*BlockSize + int64(n)
	})
	return size
}

// encodeDir is a directory's contents, the last block filled with zeros.
func (p *plan) encodeDir(list []dirent) []byte {
	var out []byte
	dirBlocks(list, func(part []dirent, _ int) {
		b := make([]byte, BlockSize)
		at := direntSize * len(part)
		for i, e := range part {
			h := b[direntSize*i:]
			binary.LittleEndian.PutUint64(h, p.nodes[e.node].nid())
			binary.LittleEndian.PutUint16(h[8:], uint16(at))
			h[10] = p.nodes[e.node].kind
			at += copy(b[at:], e.name)
		}
		out = append(out, b...)
	})
	return out
}
