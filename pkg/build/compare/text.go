package compare

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/kernel"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// WriteText writes the report for people: a section for each kind of
// difference, "+" for what only the second bundle has, "-" for what only the
// first has, "~" for what changed.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	if r.Equal {
		fmt.Fprintf(&b, "the bundles are the same: %s\n", r.Before)
	}
	section := func(title string, n int) {
		if n > 0 {
			fmt.Fprintf(&b, "%s (%d):\n", title, n)
		}
	}
	section("artifacts", len(r.Artifacts))
	for _, a := range r.Artifacts {
		line(&b, a.File, a.Before, a.After)
		writeBytes(&b, a.Bytes)
	}
	section("manifest", len(r.Manifest))
	for _, v := range r.Manifest {
		line(&b, v.Path, v.Before, v.After)
	}
	section("packages", len(r.Packages))
	for _, p := range r.Packages {
		line(&b, p.Name, p.Before, p.After)
	}
	if len(r.Kernel) > 0 {
		b.WriteString("kernel configuration:\n")
		if err := kernel.WriteDiff(&b, r.Kernel); err != nil {
			return err
		}
	}
	section("initramfs", len(r.Initramfs))
	WriteChanges(&b, r.Initramfs)
	section("root file system", len(r.Root))
	WriteChanges(&b, r.Root)
	_, err := io.WriteString(w, b.String())
	return err
}

// line writes one value that was added, removed or changed.
func line(b *strings.Builder, name, before, after string) {
	switch {
	case before == "":
		fmt.Fprintf(b, "  + %s %s\n", name, after)
	case after == "":
		fmt.Fprintf(b, "  - %s %s\n", name, before)
	default:
		fmt.Fprintf(b, "  ~ %s %s -> %s\n", name, before, after)
	}
}

// WriteChanges writes changed paths, one a line, with what differs below.
func WriteChanges(b *strings.Builder, changes []rootfs.Change) {
	for _, c := range changes {
		mark := map[rootfs.ChangeKind]string{rootfs.Added: "+", rootfs.Removed: "-", rootfs.Changed: "~"}[c.Kind]
		fmt.Fprintf(b, "  %s /%s\n", mark, c.Path)
		for _, a := range c.Attributes {
			fmt.Fprintf(b, "      %s %s -> %s\n", a.Name, cmp.Or(a.Before, "none"), cmp.Or(a.After, "none"))
		}
		writeBytes(b, c.Bytes)
	}
}

func writeBytes(b *strings.Builder, c *rootfs.BytesChange) {
	if c != nil && c.Before+c.After != "" {
		fmt.Fprintf(b, "      first difference at byte %d: %s, %s\n", c.Offset, cmp.Or(c.Before, "the end"), cmp.Or(c.After, "the end"))
	}
}
