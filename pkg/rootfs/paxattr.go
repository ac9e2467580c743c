package rootfs

import (
	"archive/tar"
	"encoding/base64"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// Keys of PAX records that hold extended attributes.
const (
	// schilyXattr is the prefix that GNU tar, bsdtar, Docker and apk use; the
	// value is that of the attribute, whatever its bytes.
	schilyXattr = "SCHILY.xattr."
	// libarchiveXattr is the prefix of bsdtar's own: the name as in a URL, the
	// value in base64.
	libarchiveXattr = "LIBARCHIVE.xattr."
	// selinuxLabel is GNU tar's and star's, without the NUL that the attribute
	// ends in.
	selinuxLabel = "RHT.security.selinux"
	// ACLs as text (acl(5)): GNU tar's, bsdtar's and star's.
	aclAccess  = "SCHILY.acl.access"
	aclDefault = "SCHILY.acl.default"
	// aclNFS4 is another kind of ACL, which Linux's own file systems lack.
	aclNFS4 = "SCHILY.acl.ace"
)

// xattrACL are the attributes that Linux keeps ACLs in.
const (
	xattrACLAccess  = "system.posix_acl_access"
	xattrACLDefault = "system.posix_acl_default"
	xattrSELinux    = "security.selinux"
)

// GNU tar writes = and % of a name so, because a key ends at the first =.
var (
	escapeKey   = strings.NewReplacer("%", "%25", "=", "%3D")
	unescapeKey = strings.NewReplacer("%25", "%", "%3D", "=")
)

// xattrKey is the key of the record that holds an attribute.
func xattrKey(name string) string {
	if strings.Contains(name, "=") || unescapeKey.Replace(name) != name {
		name = escapeKey.Replace(name)
	}
	return schilyXattr + name
}

// readXattrs gives e the attributes that its header's records hold. Where two
// records are about one attribute, that which has its very bytes counts.
func (e *Entry) readXattrs(records map[string]string) error {
	set := func(name string, value []byte) {
		if e.Xattrs == nil {
			e.Xattrs = map[string][]byte{}
		}
		e.Xattrs[strings.Clone(name)] = value
	}
	for _, key := range slices.Sorted(maps.Keys(records)) { // LIBARCHIVE before RHT before SCHILY
		value := records[key]
		switch {
		case strings.HasPrefix(key, schilyXattr):
			set(unescapeKey.Replace(key[len(schilyXattr):]), []byte(value))
		case strings.HasPrefix(key, libarchiveXattr):
			name, err := url.PathUnescape(key[len(libarchiveXattr):])
			if err != nil {
				return fmt.Errorf("%s: PAX record %s: %w", e.Path, key, err)
			}
			b, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
			if err != nil {
				return fmt.Errorf("%s: PAX record %s: %w", e.Path, key, err)
			}
			set(name, b)
		case key == selinuxLabel && value != "":
			set(xattrSELinux, append([]byte(value), 0))
		case key == aclAccess, key == aclDefault:
			if err := e.readACL(key, value, set); err != nil {
				return fmt.Errorf("%s: PAX record %s: %w", e.Path, key, err)
			}
		case key == aclNFS4 && value != "":
			return fmt.Errorf("%s: PAX record %s: NFSv4 ACLs are not supported", e.Path, key)
		}
	}
	return e.checkXattrs()
}

// readACL sets the attribute of an ACL's text. One that says no more than the
// permission bits becomes those, as in the kernel.
func (e *Entry) readACL(key, text string, set func(string, []byte)) error {
	acl, err := parseACL(text, key == aclDefault)
	if err != nil || len(acl) == 0 {
		return err
	}
	if key == aclDefault {
		if !e.Mode.IsDir() {
			return fmt.Errorf("a default ACL is for a directory")
		}
		set(xattrACLDefault, acl.encode())
		return nil
	}
	if e.Mode.Type() == fs.ModeSymlink {
		return fmt.Errorf("a symbolic link has no ACL")
	}
	e.Mode = e.Mode&^fs.ModePerm | acl.perm()
	if acl.extended() {
		set(xattrACLAccess, acl.encode())
	}
	return nil
}

// meansSomething returns a key that changes what an entry is, were it to count
// for it, "" if there is none.
func meansSomething(records map[string]string) string {
	for _, key := range slices.Sorted(maps.Keys(records)) {
		switch key {
		case "path", "linkpath", "size", "uid", "gid", selinuxLabel, aclAccess, aclDefault, aclNFS4:
			return key
		}
		for _, prefix := range []string{schilyXattr, libarchiveXattr, "GNU.sparse."} {
			if strings.HasPrefix(key, prefix) {
				return key
			}
		}
	}
	return ""
}

// writeXattrs puts attributes into a header's records.
func writeXattrs(h *tar.Header, attrs map[string][]byte) {
	for name, value := range attrs {
		setRecord(h, xattrKey(name), string(value))
	}
}

func setRecord(h *tar.Header, key, value string) {
	if h.PAXRecords == nil {
		h.PAXRecords = map[string]string{}
	}
	h.PAXRecords[key] = value
}
