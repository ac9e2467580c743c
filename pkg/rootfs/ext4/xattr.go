package ext4

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

const (
	xattrMagic  = 0xea020000
	xattrEntry  = 16 // without the name
	xattrHeader = 32 // of a block
	// inlineXattrs is the room in an inode after its fields.
	inlineXattrs = inodeSize - 128 - extraSize
)

// xattrs are the extended attributes of an inode, split into those inside it
// and those in a block of their own.
type xattrs struct{ inline, block []xattr }

type xattr struct {
	index byte // of the name's prefix
	name  string
	value []byte
}

func (x xattr) entrySize() int { return xattrEntry + roundUp(len(x.name), 4) }
func (x xattr) valueSize() int { return roundUp(len(x.value), 4) }

func (x xattrs) needsBlock() bool { return len(x.block) > 0 }

// Prefixes of names as fs/ext4/xattr.h numbers them; the first that fits.
const (
	indexUser       = 1
	indexACLAccess  = 2
	indexACLDefault = 3
	indexTrusted    = 4
	indexSecurity   = 6
)

// encodeXattrs decides where an entry's attributes go.
func encodeXattrs(e rootfs.Entry) (xattrs, error) {
	if len(e.Xattrs) == 0 {
		return xattrs{}, nil
	}
	all := make([]xattr, 0, len(e.Xattrs))
	for key, value := range e.Xattrs {
		x := xattr{value: value}
		var err error
		prefix, rest, _ := strings.Cut(key, ".")
		switch {
		case key == "system.posix_acl_access":
			x.index = indexACLAccess
			x.value, err = diskACL(value)
		case key == "system.posix_acl_default":
			x.index = indexACLDefault
			x.value, err = diskACL(value)
		case prefix == "user":
			x.index, x.name = indexUser, rest
		case prefix == "trusted":
			x.index, x.name = indexTrusted, rest
		case prefix == "security":
			x.index, x.name = indexSecurity, rest
		default:
			err = fault.Errorf(fault.Usage, "ext4 has no such namespace; use user, trusted, security or an ACL")
		}
		if err != nil {
			return xattrs{}, fault.Errorf(fault.Usage, "%s: extended attribute %s: %w", e.Path, key, err)
		}
		all = append(all, x)
	}
	// The kernel searches a block in this order.
	slices.SortFunc(all, func(a, b xattr) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), strings.Compare(a.name, b.name))
	})
	var out xattrs
	// Each area ends its entries with four zero bytes.
	inline, block := inlineXattrs-4-4, BlockSize-xattrHeader-4
	for _, x := range all {
		size := x.entrySize() + x.valueSize()
		switch {
		case size <= inline:
			inline -= size
			out.inline = append(out.inline, x)
		case size <= block:
			block -= size
			out.block = append(out.block, x)
		default:
			return xattrs{}, fault.Errorf(fault.Usage, "%s: extended attributes do not fit the %d bytes ext4 has for them", e.Path, BlockSize)
		}
	}
	return out, nil
}

// put writes entries from the start of area and values down from its end.
// base is where offsets of values count from: before the area by that much.
func putXattrs(area []byte, base int, list []xattr) (hash uint32) {
	pos, end := 0, len(area)
	for _, x := range list {
		e := area[pos:]
		e[0], e[1] = byte(len(x.name)), x.index
		if len(x.value) > 0 {
			end -= x.valueSize()
			put16(e[2:], uint16(end+base))
			copy(area[end:], x.value)
		}
		put32(e[8:], uint32(len(x.value)))
		h := x.hash()
		put32(e[12:], h)
		copy(e[xattrEntry:], x.name)
		pos += x.entrySize()
		hash = hash<<16 ^ hash>>16 ^ h
	}
	return hash
}

// hash is ext4_xattr_hash_entry.
func (x xattr) hash() uint32 {
	var h uint32
	for _, c := range []byte(x.name) {
		h = h<<5 ^ h>>27 ^ uint32(c)
	}
	for i := 0; i < len(x.value); i += 4 {
		var word [4]byte
		copy(word[:], x.value[i:])
		h = h<<16 ^ h>>16 ^ binary.LittleEndian.Uint32(word[:])
	}
	return h
}

// encodeInline is what follows an inode's fields.
func (x xattrs) encodeInline(area []byte) {
	if len(x.inline) == 0 {
		return
	}
	put32(area, xattrMagic)
	putXattrs(area[4:], 0, x.inline)
}

// encodeBlock is the block with the rest, for a given place on the disk.
func (x xattrs) encodeBlock(seed uint32, at uint64) []byte {
	b := make([]byte, BlockSize)
	put32(b[0:], xattrMagic)
	put32(b[4:], 1) // references
	put32(b[8:], 1) // blocks
	put32(b[12:], putXattrs(b[xattrHeader:], xattrHeader, x.block))
	var nr [8]byte
	put64(nr[:], at)
	put32(b[16:], crc(crc(seed, nr[:]), b))
	return b
}

// diskACL turns a POSIX ACL as system calls have it (version 2, entries of 8
// bytes) into ext4's own form (version 1, no number where none is meant).
func diskACL(v []byte) ([]byte, error) {
	if len(v) < 4 || len(v)%8 != 4 || binary.LittleEndian.Uint32(v) != 2 {
		return nil, fault.Errorf(fault.Usage, "not a POSIX ACL of version 2")
	}
	out := binary.LittleEndian.AppendUint32(nil, 1)
	for e := v[4:]; len(e) > 0; e = e[8:] {
		switch tag := binary.LittleEndian.Uint16(e); tag {
		case 0x01, 0x04, 0x10, 0x20: // owner, owning group, mask, others
			out = append(out, e[:4]...)
		case 0x02, 0x08: // a user, a group
			out = append(out, e[:8]...)
		default:
			return nil, fault.Errorf(fault.Usage, "POSIX ACL with an unknown tag %#x", tag)
		}
	}
	return out, nil
}
