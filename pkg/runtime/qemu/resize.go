package qemu

import (
	"context"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/qmp"
)

// Balloon sets what the guest's memory is to be.
func (d *Driver) Balloon(ctx context.Context, dir string, size int64) error {
	return d.execute(ctx, dir, "balloon", map[string]int64{"value": size}, nil)
}

// Memory asks for the guest's memory less what the balloon holds.
func (d *Driver) Memory(ctx context.Context, dir string) (int64, error) {
	var b struct {
		Actual int64 `json:"actual"`
	}
	err := d.execute(ctx, dir, "query-balloon", nil, &b)
	return b.Actual, err
}

// GrowDisk gives the disk its new size, and the image too where that is still
// shorter.
func (d *Driver) GrowDisk(ctx context.Context, dir, serial string, size int64) error {
	c, err := d.connect(ctx, dir)
	if err != nil {
		return err
	}
	defer c.Close()
	node, now, err := findDisk(ctx, c, serial)
	if err != nil {
		return err
	}
	if size < now {
		return fault.Errorf(fault.Usage, "the disk %q has %d bytes, and %d are less: a disk is never made smaller", serial, now, size)
	}
	return c.Execute(ctx, "block_resize", map[string]any{"node-name": node, "size": size}, nil)
}

// findDisk returns the block node of the disk with a serial, and its size as
// the machine sees it.
func findDisk(ctx context.Context, c *qmp.Client, serial string) (node string, size int64, err error) {
	var disks []struct {
		QDev     string `json:"qdev"`
		Inserted struct {
			Node  string `json:"node-name"`
			Image struct {
				Size int64 `json:"virtual-size"`
			} `json:"image"`
		} `json:"inserted"`
	}
	if err := c.Execute(ctx, "query-block", nil, &disks); err != nil {
		return "", 0, err
	}
	for _, disk := range disks {
		if disk.QDev == "" || disk.Inserted.Node == "" {
			continue
		}
		var got string
		if err := c.Execute(ctx, "qom-get", map[string]string{"path": disk.QDev, "property": "serial"}, &got); err != nil {
			return "", 0, err
		}
		if got == serial {
			return disk.Inserted.Node, disk.Inserted.Image.Size, nil
		}
	}
	return "", 0, fault.Errorf(fault.Device, "the machine has no disk with the serial %q", serial)
}
