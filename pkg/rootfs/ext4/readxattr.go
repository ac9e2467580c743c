package ext4

import (
	"bytes"
	"encoding/binary"
	"maps"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// readXattrs reads the extended attributes in an inode and in its block.
func (m *image) readXattrs(n *inodeRead) (map[string][]byte, error) {
	var all map[string][]byte
	if m.inodeSize > 128 {
		if area := n.raw[128+int(u16(n.raw, 0x80)):]; len(area) >= 4 && u32(area, 0) == xattrMagic {
			var err error
			if all, err = m.decodeXattrs(area[4:], area[4:]); err != nil {
				return nil, err
			}
		}
	}
	if n.acl == 0 {
		return all, nil
	}
	b := make([]byte, m.blockSize)
	if err := m.readBlock(b, n.acl); err != nil {
		return nil, err
	}
	if u32(b, 0) != xattrMagic || u32(b, 8) != 1 {
		return nil, damaged("block %d does not hold extended attributes", n.acl)
	}
	if m.checksums() {
		want := u32(b, 16)
		put32(b[16:], 0)
		var nr [8]byte
		put64(nr[:], n.acl)
		if crc(crc(m.seed, nr[:]), b) != want {
			return nil, damaged("the checksum of block %d, of extended attributes, is wrong", n.acl)
		}
	}
	if _, ok := m.attributes[n.acl]; !ok {
		if err := m.charge(costBlock); err != nil {
			return nil, err
		}
	}
	if m.attributes[n.acl]++; m.attributes[n.acl] > u32(b, 4) {
		return nil, damaged("block %d, of extended attributes, is used more often than its count of %d", n.acl, u32(b, 4))
	}
	more, err := m.decodeXattrs(b[xattrHeader:], b)
	if err != nil || all == nil {
		return more, err
	}
	for name := range more {
		if _, ok := all[name]; ok {
			return nil, damaged("the extended attribute %q is there twice", name)
		}
	}
	maps.Copy(all, more)
	return all, nil
}

// decodeXattrs reads entries until the one of zeros; offsets of their values
// count from the start of values.
func (m *image) decodeXattrs(entries, values []byte) (map[string][]byte, error) {
	all := map[string][]byte{}
	for total := 0; ; {
		if len(entries) < 4 {
			return nil, damaged("the extended attributes have no end")
		}
		if u32(entries, 0) == 0 {
			return all, nil
		}
		length := int(entries[0])
		if size := xattrEntry + roundUp(length, 4); size > len(entries) {
			return nil, damaged("the name of an extended attribute reaches over the end")
		}
		name, err := xattrName(entries[1], string(entries[xattrEntry:xattrEntry+length]))
		if err != nil {
			return nil, err
		}
		if u32(entries, 4) != 0 {
			return nil, unsupported("the extended attribute %q is in an inode of its own, which is not supported", name)
		}
		at, size := int64(u16(entries, 2)), int64(u32(entries, 8))
		if size > 0 && at+size > int64(len(values)) {
			return nil, damaged("the value of the extended attribute %q is outside its block", name)
		}
		if _, ok := all[name]; ok {
			return nil, damaged("the extended attribute %q is there twice", name)
		}
		if total += len(name) + int(size); total > rootfs.MaxXattrs {
			return nil, damaged("extended attributes of more than %d bytes", rootfs.MaxXattrs)
		}
		if err := m.charge(costXattr + len(name) + int(size)); err != nil {
			return nil, err
		}
		value := []byte{}
		if size > 0 {
			value = bytes.Clone(values[at : at+size])
		}
		if entries[1] == indexACLAccess || entries[1] == indexACLDefault {
			if value, err = callACL(value); err != nil {
				return nil, err
			}
		}
		all[name] = value
		entries = entries[xattrEntry+roundUp(length, 4):]
	}
}

// xattrName is the full name of an attribute.
func xattrName(index byte, name string) (string, error) {
	const indexSystem, indexRichACL = 7, 8
	switch index {
	case indexUser:
		return "user." + name, nil
	case indexTrusted:
		return "trusted." + name, nil
	case indexSecurity:
		return "security." + name, nil
	case indexSystem:
		return "system." + name, nil
	}
	if name == "" {
		switch index {
		case indexACLAccess:
			return "system.posix_acl_access", nil
		case indexACLDefault:
			return "system.posix_acl_default", nil
		case indexRichACL:
			return "system.richacl", nil
		}
	}
	return "", unsupported("the extended attribute %q of namespace %d, which is not supported", name, index)
}

// callACL is the inverse of diskACL: a POSIX ACL as system calls have it.
func callACL(v []byte) ([]byte, error) {
	if len(v) < 4 || u32(v, 0) != 1 {
		return nil, damaged("a POSIX ACL that is not of version 1")
	}
	out := binary.LittleEndian.AppendUint32(nil, 2)
	for e := v[4:]; len(e) > 0; {
		if len(e) < 4 {
			return nil, damaged("a POSIX ACL cut short")
		}
		switch tag := u16(e, 0); {
		case tag == 0x01 || tag == 0x04 || tag == 0x10 || tag == 0x20: // owner, owning group, mask, others
			out = append(append(out, e[:4]...), 0xff, 0xff, 0xff, 0xff)
			e = e[4:]
		case (tag == 0x02 || tag == 0x08) && len(e) >= 8: // a user, a group
			out = append(out, e[:8]...)
			e = e[8:]
		default:
			return nil, damaged("a POSIX ACL with an unknown tag %#x", tag)
		}
	}
	return out, nil
}
