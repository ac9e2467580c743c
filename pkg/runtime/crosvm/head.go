package crosvm

import (
	"bytes"
	"errors"
	"io"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// headSize is how much of an image crosvm looks at to tell its format, in bytes
// (disk/src/disk.rs, detect_image_type).
const headSize = 4096

// formats are what crosvm takes an image for that begins so. It cannot be told
// that one is raw.
var formats = []struct{ magic, name string }{
	{"composite_disk\x1d", "a composite disk"},
	{"QFI\xfb", "a QCOW2 image"},
	{"\x3a\xff\x26\xed", "an Android sparse image"},
	{"\x28\xb5\x2f\xfd", "a zstd archive"},
}

// CheckHeads refuses a machine with a disk that crosvm would not take for a raw
// one. Whoever is root in a guest can write such a beginning to a disk of its
// own, and crosvm, root on the host, would then open the files that it names.
func CheckHeads(m vm.Machine) error {
	head := make([]byte, headSize)
	for _, d := range m.Disks {
		if d.ReadOnly {
			continue // its content was held to the bundle's manifest
		}
		n, err := d.Image.ReadAt(head, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return fault.Wrap(fault.Environment, err)
		}
		for _, f := range formats {
			if bytes.HasPrefix(head[:n], []byte(f.magic)) {
				return fault.Errorf(fault.Device,
					"%s begins as %s does, and crosvm would open what that names: whoever is root in the guest has written that", d.Image.Name(), f.name).
					Hintf("the first 1024 bytes of a data disk are nobody's: look at them, and to go on clear them: dd if=/dev/zero of=%s bs=1024 count=1 conv=notrunc", d.Image.Name())
			}
		}
	}
	return nil
}
