package disk

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/sovereign-build/sovereign/pkg/build/disk/sparse"
)

// DeriveGUIDs gives the disk and each partition that has no GUID one that is
// made of what they hold: equal disks, and no others, have equal GUIDs. It
// reads the contents of those partitions, which must be io.ReaderAt, from
// offset 0.
func (d *Disk) DeriveGUIDs(ctx context.Context) error {
	all := sha256.New()
	for i := range d.Partitions {
		p := &d.Partitions[i]
		if p.GUID == (GUID{}) {
			var content [sha256.Size]byte
			if p.Content != nil {
				r, ok := p.Content.(io.ReaderAt)
				if !ok {
					return fmt.Errorf("disk: partition %s: no GUID, and contents that cannot be read twice", p.Label)
				}
				var err error
				if content, err = sparse.Sum(ctx, r, p.Size); err != nil {
					return fmt.Errorf("disk: partition %s: %w", p.Label, err)
				}
			}
			h := sha256.New()
			fmt.Fprintf(h, "partition %d %q %v %x %d %x", i+1, p.Label, p.Type, p.Attributes, p.Size, content)
			p.GUID = guidOf(h.Sum(nil))
		}
		fmt.Fprintf(all, "partition %q %v %v %x %d\n", p.Label, p.Type, p.GUID, p.Attributes, p.Size)
	}
	if d.GUID == (GUID{}) {
		d.GUID = guidOf(all.Sum(nil))
	}
	return nil
}

// guidOf is a UUID of version 8 (RFC 9562).
func guidOf(sum []byte) GUID {
	g := GUID(sum[:16])
	g[6] = g[6]&0x0f | 0x80
	g[8] = g[8]&0x3f | 0x80
	return g
}
