package build

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// notInstalled are the options of the installer that nothing in the image
// depends on: where it keeps contents meanwhile, and whom it tells how far it
// is.
var notInstalled = []string{"Spool", "Progress"}

// install adds what the installer is told. It goes through the options by
// their fields, so that one that is new, and may reach the image, changes the
// key without anybody thinking of it.
func (in inputs) install(o apk.InstallOptions) {
	v := reflect.ValueOf(o)
	for i := range v.NumField() {
		if name := v.Type().Field(i).Name; !slices.Contains(notInstalled, name) {
			// With the types, as actions consist of steps of several.
			in["install "+strings.ToLower(name)] = fmt.Sprintf("%#v", v.Field(i).Interface())
		}
	}
}

// packageIdentity is what a package is in the key of an image: its bytes where
// the build knows them, else what the signed index says of them (apk's checksum
// is a SHA-1, of a member with the SHA-256 of the data), and what the installer
// keeps of where it is from.
func packageIdentity(s apk.Selected, digest store.Digest) string {
	return fmt.Sprintf("%s %s %d %s@%s", s.Meta.Version, s.Meta.Checksum, s.Meta.Size, digest, s.Tag)
}

// packageDigest is the digest of a selected package, "" where only its index
// vouches for it.
func (b *Builder) packageDigest(s apk.Selected, ports map[string]Package) store.Digest {
	if p, ok := ports[s.Meta.Name]; ok && p.Meta.Checksum == s.Meta.Checksum {
		return p.Digest
	}
	for _, p := range b.lock.PackagesOf(b.arch.Apk) {
		if p.Name == s.Meta.Name && p.Version == s.Meta.Version && p.Tag == s.Tag {
			return p.Digest
		}
	}
	return ""
}

// unpinned names what is in an image and in no lock: packages of repositories
// that were given for this build alone, by their locations, and files that were
// handed in. It names no path or address of this machine.
func (b *Builder) unpinned(selected []apk.Selected, locations []string, files *overlay) ([]string, error) {
	var out []string
	for _, s := range selected {
		if slices.Contains(locations, s.Repository) {
			out = append(out, "package "+s.Meta.ID()+" "+s.Meta.Checksum)
		}
	}
	slices.Sort(out)
	if len(files.caller) == 0 {
		return out, nil
	}
	t := rootfs.New()
	for _, e := range files.caller {
		if err := t.Set(e); err != nil {
			return nil, err
		}
	}
	d, err := b.treeDigest(t)
	return append(out, fmt.Sprintf("%d files, as a tar %s", len(files.caller), d)), err
}
