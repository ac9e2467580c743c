package rootfs

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"
)

// posixACL is a POSIX ACL, in the order the kernel wants.
type posixACL []aclEntry

// aclEntry is who may do what.
type aclEntry struct {
	tag, perm uint16
	id        uint32 // of a user or group; aclNobody for the others
}

// Tags as the kernel numbers them (include/uapi/linux/posix_acl.h).
const (
	aclOwner  = 0x01
	aclUser   = 0x02
	aclOwning = 0x04 // the owning group
	aclGroup  = 0x08
	aclMask   = 0x10
	aclOther  = 0x20

	aclNobody = math.MaxUint32
)

// parseACL reads the text of an ACL as acl(5) has it, long or short, its
// entries one a line or separated by commas: "user::rw-,user:1000:r--". A user
// or group is a number, or a name with the number behind the permissions
// ("user:lisa:r-x:502"), as bsdtar and star write it. A name alone, as GNU tar
// writes it, means nothing outside the machine that wrote it and is an error,
// but for root, which is 0 everywhere. So is an entry
// "default:…" where it is not a directory's default ACL. An empty text is no
// ACL.
func parseACL(text string, isDefault bool) (posixACL, error) {
	var acl posixACL
	for _, line := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		line, _, _ = strings.Cut(line, "#") // "#effective:r--"
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		e, err := parseACLEntry(line, isDefault)
		if err != nil {
			return nil, err
		}
		acl = append(acl, e)
	}
	slices.SortFunc(acl, func(a, b aclEntry) int { return cmp.Or(cmp.Compare(a.tag, b.tag), cmp.Compare(a.id, b.id)) })
	return acl, acl.check()
}

func parseACLEntry(line string, isDefault bool) (aclEntry, error) {
	bad := func(format string, args ...any) (aclEntry, error) {
		return aclEntry{}, fmt.Errorf("ACL entry %.100q: %s", line, fmt.Sprintf(format, args...))
	}
	fields := strings.Split(line, ":")
	if isDefault && (fields[0] == "default" || fields[0] == "d") {
		fields = fields[1:]
	}
	for i := range fields {
		fields[i] = strings.TrimSpace(fields[i])
	}
	// The mask and the others have no name, and setfacl's short form no field
	// for one.
	if len(fields) == 2 && slices.Contains([]string{"m", "mask", "o", "other"}, fields[0]) {
		fields = []string{fields[0], "", fields[1]}
	}
	if len(fields) < 3 || len(fields) > 4 {
		return bad("it is not of the form user:NUMBER:rwx")
	}
	e := aclEntry{id: aclNobody}
	named := fields[1] != ""
	switch fields[0] {
	case "user", "u":
		e.tag = aclOwner
		if named {
			e.tag = aclUser
		}
	case "group", "g":
		e.tag = aclOwning
		if named {
			e.tag = aclGroup
		}
	case "mask", "m":
		e.tag = aclMask
	case "other", "o":
		e.tag = aclOther
	default:
		return bad("%q is not user, group, mask or other", fields[0])
	}
	for _, c := range fields[2] {
		bit, ok := map[rune]uint16{'r': 4, 'w': 2, 'x': 1, '-': 0}[c]
		if !ok {
			return bad("%q is not of r, w, x and -", fields[2])
		}
		e.perm |= bit
	}
	if fields[2] == "" {
		return bad("it has no permissions")
	}
	if e.tag != aclUser && e.tag != aclGroup {
		if named || len(fields) == 4 && fields[3] != "" {
			return bad("%s has no name", fields[0])
		}
		return e, nil
	}
	number := fields[1]
	if len(fields) == 4 && fields[3] != "" {
		number = fields[3]
	}
	if number == "root" {
		number = "0"
	}
	id, err := strconv.ParseUint(number, 10, 32)
	switch {
	case err != nil && number == fields[1]:
		return bad("%q is a name without a number; pack with bsdtar, which writes both, or give the directory", number)
	case err != nil || id == aclNobody:
		return bad("%q is not the number of a user or group", number)
	}
	e.id = uint32(id)
	return e, nil
}

// check says why the kernel would refuse the ACL.
func (a posixACL) check() error {
	if len(a) == 0 {
		return nil
	}
	count := map[uint16]int{}
	for i, e := range a {
		count[e.tag]++
		if i > 0 && a[i-1].tag == e.tag && a[i-1].id == e.id {
			return fmt.Errorf("the ACL has two entries for one user or group")
		}
	}
	if count[aclOwner] != 1 || count[aclOwning] != 1 || count[aclOther] != 1 {
		return fmt.Errorf("the ACL does not have one entry each for the owner, the owning group and the others")
	}
	if count[aclMask] == 0 && count[aclUser]+count[aclGroup] > 0 {
		return fmt.Errorf("the ACL names users or groups and has no mask")
	}
	return nil
}

// extended says whether the ACL says more than permission bits do.
func (a posixACL) extended() bool { return len(a) > 3 }

// perm are the permission bits of a file that has the ACL: the group's are the
// mask.
func (a posixACL) perm() fs.FileMode {
	var perm fs.FileMode
	for _, e := range a {
		switch e.tag {
		case aclOwner:
			perm |= fs.FileMode(e.perm) << 6
		case aclOwning, aclMask: // the mask comes later
			perm = perm&^0o070 | fs.FileMode(e.perm)<<3
		case aclOther:
			perm |= fs.FileMode(e.perm)
		}
	}
	return perm
}

// encode is the ACL as system calls have it: version 2, then the entries.
func (a posixACL) encode() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range a {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}
