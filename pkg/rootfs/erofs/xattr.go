package erofs

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// encodeXattrs is what follows an inode that has extended attributes: a header
// and the attributes by name.
func encodeXattrs(e rootfs.Entry) ([]byte, error) {
	if len(e.Xattrs) == 0 {
		return nil, nil
	}
	b := make([]byte, xattrHeader)
	for _, key := range slices.Sorted(maps.Keys(e.Xattrs)) {
		index, name, ok := splitName(key)
		value := e.Xattrs[key]
		if !ok {
			return nil, fault.Errorf(fault.Usage, "%s: extended attribute %s: EROFS has no such namespace; use user, trusted, security or an ACL", e.Path, key)
		}
		if len(value) > math.MaxUint16 {
			return nil, fault.Errorf(fault.Usage, "%s: extended attribute %s has %d bytes, more than %d", e.Path, key, len(value), math.MaxUint16)
		}
		b = append(b, byte(len(name)), index)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
		b = append(append(b, name...), value...)
		b = append(b, make([]byte, -len(b)&3)...)
	}
	return b, nil
}

// splitName replaces a name's prefix by its number. ACLs are kept in the form
// that system calls have.
func splitName(key string) (index byte, name string, ok bool) {
	switch key {
	case "system.posix_acl_access":
		return 2, "", true
	case "system.posix_acl_default":
		return 3, "", true
	}
	prefix, name, _ := strings.Cut(key, ".")
	index = map[string]byte{"user": 1, "trusted": 4, "security": 6}[prefix]
	return index, name, index != 0
}
