package torture

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// bounceRepeats is how often each setting is measured, in turns with the
	// others, so that what else this machine does meets all alike.
	bounceRepeats = 3
	// benchFor is how long pgbench runs.
	benchFor = 15 * time.Second
	// bounceFile is what is read and written, and its size in MiB. Of requests
	// of 8 KiB only the first bounceSmallMiB are.
	bounceFile     = "/data/torture.bin"
	bounceMiB      = 256
	bounceSmallMiB = 64
)

// setting is one way to run the machine.
type setting struct {
	name   string
	bounce bool
	args   []string // to QEMU
	// setup runs in the guest, as root, before the measurement.
	setup string
	// sql likewise; a boot comes after it.
	sql []string
}

// settings are no bounce buffers, bounce buffers, and with them one change at a
// time.
func settings() []setting {
	const limit = `for q in /sys/block/vd*/queue; do echo %d > $q/max_sectors_kb; done`
	const blk, net = "virtio-blk-pci.", "virtio-net-pci."
	return []setting{
		{name: "none"},
		{name: "bounce buffers", bounce: true},
		{name: "and requests of at most 256 KiB", bounce: true, setup: fmt.Sprintf(limit, 256)},
		{name: "and requests of at most 64 KiB", bounce: true, setup: fmt.Sprintf(limit, 64)},
		{name: "and no indirect descriptors", bounce: true, args: []string{"-global", blk + "indirect_desc=off", "-global", net + "indirect_desc=off"}},
		{name: "and one queue", bounce: true, args: []string{"-global", blk + "num-queues=1"}},
		{name: "and packed rings", bounce: true, args: []string{"-global", blk + "packed=on", "-global", net + "packed=on"}},
		{name: "and full pages seldom", bounce: true, sql: []string{
			"ALTER SYSTEM SET checkpoint_timeout = '1h'", "ALTER SYSTEM SET max_wal_size = '2GB'"}},
		{name: "and shared_buffers of 192 MiB", bounce: true, sql: []string{"ALTER SYSTEM SET shared_buffers = '192MB'"}},
	}
}

// measured is what one run gave.
type measured struct {
	tps               float64
	read1M, write1M   float64 // MB/s
	read64K, write64K float64
	read8K, write8K   float64
}

// runBounce measures each setting in turns.
func runBounce(ctx context.Context, l *lab) ([]Result, error) {
	all := settings()
	runs := make([][]measured, len(all))
	for n := range bounceRepeats {
		for i, s := range all {
			l.say("bounce: run %d of %d, %s", n+1, bounceRepeats, s.name)
			v, err := l.measure(ctx, fmt.Sprintf("bounce%d-%d", n, i), s)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			runs[i] = append(runs[i], v)
		}
	}
	columns := []struct {
		name string
		of   func(measured) float64
		unit string
	}{
		{"pgbench", func(m measured) float64 { return m.tps }, "tps"},
		{"read 1 MiB", func(m measured) float64 { return m.read1M }, "MB/s"},
		{"write 1 MiB", func(m measured) float64 { return m.write1M }, "MB/s"},
		{"read 64 KiB", func(m measured) float64 { return m.read64K }, "MB/s"},
		{"write 64 KiB", func(m measured) float64 { return m.write64K }, "MB/s"},
		{"read 8 KiB", func(m measured) float64 { return m.read8K }, "MB/s"},
		{"write 8 KiB", func(m measured) float64 { return m.write8K }, "MB/s"},
	}
	var results []Result
	for i, s := range all {
		res := Result{Fault: "bounce buffers: " + s.name, Times: len(runs[i])}
		for _, c := range columns {
			v, base := middle(runs[i], c.of), middle(runs[0], c.of)
			text := fmt.Sprintf("%.0f %s", v, c.unit)
			if i > 0 && base > 0 {
				text += fmt.Sprintf(" (%+.0f %%)", 100*(v/base-1))
			}
			res.Figures = append(res.Figures, Figure{c.name, text})
		}
		results = append(results, res)
	}
	return results, nil
}

// middle is the median of one column.
func middle(runs []measured, of func(measured) float64) float64 {
	var all []float64
	for _, r := range runs {
		all = append(all, of(r))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// measure boots a machine with a setting and measures once.
func (l *lab) measure(ctx context.Context, name string, s setting) (measured, error) {
	var v measured
	m, err := l.newMachine(ctx, name, copied)
	if err != nil {
		return v, err
	}
	m.bounce, m.extra = s.bounce, s.args
	if _, err := m.boot(ctx); err != nil {
		return v, err
	}
	if len(s.sql) > 0 {
		if err := m.alter(ctx, s.sql); err != nil {
			return v, err
		}
	}
	if s.setup != "" {
		if err := m.run(ctx, nil, "sh", "-ec", s.setup); err != nil {
			return v, err
		}
	}
	for _, size := range []struct {
		kib, mib    int
		read, write *float64
	}{{1024, bounceMiB, &v.read1M, &v.write1M}, {64, bounceMiB, &v.read64K, &v.write64K}, {8, bounceSmallMiB, &v.read8K, &v.write8K}} {
		if *size.write, err = m.dd(ctx, fmt.Sprintf("if=/dev/zero of=%s oflag=direct conv=notrunc", bounceFile), size.kib, size.mib); err != nil {
			return v, err
		}
		if *size.read, err = m.dd(ctx, fmt.Sprintf("if=%s of=/dev/null iflag=direct", bounceFile), size.kib, size.mib); err != nil {
			return v, err
		}
	}
	if v.tps, err = m.bench(ctx); err != nil {
		return v, err
	}
	if err := m.stop(ctx); err != nil {
		return v, err
	}
	return v, l.drop(ctx, m)
}

// alter runs ALTER SYSTEM and boots anew.
func (m *machine) alter(ctx context.Context, sql []string) error {
	c, err := m.connect(ctx)
	if err != nil {
		return err
	}
	defer closeConn(c)
	for _, q := range sql {
		if _, err := c.Exec(ctx, q); err != nil {
			return fmt.Errorf("%s: %w", q, err)
		}
	}
	if err := m.stop(ctx); err != nil {
		return err
	}
	_, err = m.boot(ctx)
	return err
}

var uptimes = regexp.MustCompile(`(?m)^([0-9.]+) ([0-9.]+)$`)

// dd moves so many MiB in requests of the size, past the guest's cache, and
// returns MB/s by the guest's clock, which /proc/uptime gives to 10 ms.
func (m *machine) dd(ctx context.Context, args string, kib, mib int) (float64, error) {
	var out bytes.Buffer
	// The file is laid out before it is measured.
	command := fmt.Sprintf(`[ -e %[1]s ] || dd if=/dev/zero of=%[1]s bs=1M count=%[2]d conv=fsync 2>/dev/null
read -r begin _ </proc/uptime
dd %[3]s bs=%[4]dk count=%[5]d 2>/dev/null
read -r end _ </proc/uptime
echo $begin $end`,
		bounceFile, bounceMiB, args, kib, mib*1024/kib)
	if err := m.run(ctx, &out, "sh", "-ec", command); err != nil {
		return 0, err
	}
	found := uptimes.FindSubmatch(out.Bytes())
	if found == nil {
		return 0, fault.Errorf(fault.Device, "no time of dd in %q", out.String())
	}
	begin, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		return 0, fault.Errorf(fault.Device, "the time of dd: %w", err)
	}
	end, err := strconv.ParseFloat(string(found[2]), 64)
	if err != nil || end <= begin {
		return 0, fault.Errorf(fault.Device, "dd from %s to %s", found[1], found[2])
	}
	return float64(mib<<20) / 1e6 / (end - begin), nil
}

var tpsLine = regexp.MustCompile(`(?m)^tps = ([0-9.]+)`)

// bench runs pgbench and returns its transactions per second.
func (m *machine) bench(ctx context.Context) (float64, error) {
	cmd, err := m.client(ctx, "pgbench", "--client=4", fmt.Sprintf("--time=%d", int(benchFor.Seconds())))
	if err != nil {
		return 0, err
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fault.Errorf(fault.Device, "pgbench: %w: %s", err, out)
	}
	found := tpsLine.FindSubmatch(out)
	if found == nil {
		return 0, fault.Errorf(fault.Device, "pgbench printed %q", out)
	}
	return strconv.ParseFloat(string(found[1]), 64)
}
