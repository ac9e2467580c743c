package rootfs

import "archive/tar"

// EntryOf is the inverse of HeaderOf: the entry a tar header describes,
// without contents. Names that leave the tree, owners and device numbers out
// of range and types Linux does not have are errors.
func EntryOf(h *tar.Header) (Entry, error) { return entryOf(h) }
