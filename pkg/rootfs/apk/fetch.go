package apk

import "context"

// File returns the path of the package's file on this machine, fetching it
// from a URL where need be; remove is to be called when it is no longer used.
// Nothing of it is verified yet: see Open and ReadMeta.
func (s Selected) File(ctx context.Context) (path string, remove func(), err error) {
	return s.src.fetch(ctx, s.Meta)
}
