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
	// mostBounceRounds is how often each machine is measured at most, in turns
	// with the others.
	mostBounceRounds = 8
	// benchFor is how long pgbench runs.
	benchFor = 8 * time.Second
	// bounceFile is what is read and written, and its size in MiB.
	bounceFile = "/data/torture.bin"
	bounceMiB  = 256
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

// settings are no bounce buffers, the same once more, whose difference is the
// noise, bounce buffers, and with them one change at a time.
func settings() []setting {
	const queues = `for q in /sys/block/vd*/queue; do echo %d >$q/%s; done`
	const blk, net = "virtio-blk-pci.", "virtio-net-pci."
	return []setting{
		{name: "none"},
		{name: "none, on another machine"},
		{name: "bounce buffers", bounce: true},
		{name: "and packed rings", bounce: true, args: []string{"-global", blk + "packed=on", "-global", net + "packed=on"}},
		{name: "and one queue", bounce: true, args: []string{"-global", blk + "num-queues=1"}},
		{name: "and no indirect descriptors", bounce: true, args: []string{"-global", blk + "indirect_desc=off", "-global", net + "indirect_desc=off"}},
		{name: "and requests of at most 64 KiB", bounce: true, setup: fmt.Sprintf(queues, 64, "max_sectors_kb")},
		{name: "and readahead of 128 KiB, the kernel's own", bounce: true, setup: fmt.Sprintf(queues, 128, "read_ahead_kb")},
		{name: "and readahead of 4 MiB", bounce: true, setup: fmt.Sprintf(queues, 4096, "read_ahead_kb")},
		{name: "and shared_buffers of 192 MiB", bounce: true, sql: []string{"ALTER SYSTEM SET shared_buffers = '192MB'"}},
		{name: "and no compression of the log", bounce: true, sql: []string{"ALTER SYSTEM SET wal_compression = off"}},
	}
}

// column is one thing that is measured; more is better.
type column struct {
	name, unit string
	measure    func(context.Context, *machine) (float64, error)
}

// columns are a database's work, and plain reads and writes: large ones past
// the guest's cache, those of a page likewise, and pages through the cache as a
// scan of a table reads them. Each but pgbench takes about a second.
func columns() []column {
	const read, write = "if=" + bounceFile + " of=/dev/null iflag=direct", "if=/dev/zero of=" + bounceFile + " conv=notrunc oflag=direct"
	dd := func(args string, kib, mib, times int) func(context.Context, *machine) (float64, error) {
		return func(ctx context.Context, m *machine) (float64, error) { return m.dd(ctx, args, kib, mib, times) }
	}
	return []column{
		{"pgbench", "tps", func(ctx context.Context, m *machine) (float64, error) { return m.bench(ctx) }},
		{"read 1 MiB", "MB/s", dd(read, 1024, bounceMiB, 4)},
		{"write 1 MiB", "MB/s", dd(write, 1024, bounceMiB, 2)},
		{"read 8 KiB", "MB/s", dd(read, 8, 64, 1)},
		{"write 8 KiB", "MB/s", dd(write, 8, 64, 1)},
		{"scan", "MB/s", dd("if="+bounceFile+" of=/dev/null", 8, bounceMiB, 1)},
	}
}

// runBounce has a machine for each setting, of which one runs at a time, and
// measures them in turns: what else this host does comes and goes in minutes,
// so what is measured within one round can be compared.
func runBounce(ctx context.Context, l *lab) ([]Result, error) {
	all, columns := settings(), columns()
	machines := make([]*machine, len(all))
	for i, s := range all {
		l.say("bounce: machine %d of %d, %s", i+1, len(all), s.name)
		var err error
		if machines[i], err = l.prepare(ctx, fmt.Sprintf("bounce%d", i), s); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	rounds := min(max(2, l.Rounds/25), mostBounceRounds)
	runs := make([][][]float64, len(all)) // by setting, column and round
	for i := range runs {
		runs[i] = make([][]float64, len(columns))
	}
	for n := range rounds {
		l.say("bounce: round %d of %d", n+1, rounds)
		for k := range all {
			i := (n + k) % len(all) // another begins each time
			if err := machines[i].alone(ctx, func() error {
				for j, c := range columns {
					v, err := c.measure(ctx, machines[i])
					if err != nil {
						return fmt.Errorf("%s: %w", c.name, err)
					}
					runs[i][j] = append(runs[i][j], v)
				}
				return nil
			}); err != nil {
				return nil, fmt.Errorf("%s: %w", all[i].name, err)
			}
		}
	}
	var results []Result
	for i, s := range all {
		res := Result{Fault: "bounce buffers: " + s.name, Times: rounds}
		for j, c := range columns {
			_, value, _ := quartiles(runs[i][j])
			text := fmt.Sprintf("%.0f %s", value, c.unit)
			if i > 0 {
				text += " (" + differs(runs[0][j], runs[i][j]) + ")"
			}
			res.Figures = append(res.Figures, Figure{c.name, text})
		}
		results = append(results, res)
	}
	return results, nil
}

// prepare boots a machine with a setting and pauses it.
func (l *lab) prepare(ctx context.Context, name string, s setting) (*machine, error) {
	m, err := l.newMachine(ctx, name, copied)
	if err != nil {
		return nil, err
	}
	m.bounce, m.extra = s.bounce, s.args
	if _, err := m.boot(ctx); err != nil {
		return nil, err
	}
	if len(s.sql) > 0 {
		if err := m.alter(ctx, s.sql); err != nil {
			return nil, err
		}
	}
	lay := fmt.Sprintf("dd if=/dev/zero of=%s bs=1M count=%d conv=fsync 2>/dev/null\n", bounceFile, bounceMiB)
	if err := m.run(ctx, nil, "sh", "-ec", lay+s.setup); err != nil {
		return nil, err
	}
	return m, m.qmp(ctx, "stop", nil)
}

// alone lets a paused machine run while f does.
func (m *machine) alone(ctx context.Context, f func() error) error {
	if err := m.qmp(ctx, "cont", nil); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	return m.qmp(ctx, "stop", nil)
}

// quartiles are those of a few values, which are not empty.
func quartiles(all []float64) (low, median, high float64) {
	sorted := slices.Sorted(slices.Values(all))
	at := func(f float64) float64 {
		x := f * float64(len(sorted)-1)
		i := int(x)
		if i == len(sorted)-1 {
			return sorted[i]
		}
		return sorted[i] + (x-float64(i))*(sorted[i+1]-sorted[i])
	}
	return at(0.25), at(0.5), at(0.75)
}

// differs tells by how much v differs from base, both round by round: the
// median, and the quartiles in brackets.
func differs(base, v []float64) string {
	var all []float64
	for n := range v {
		all = append(all, 100*(v[n]/base[n]-1))
	}
	low, median, high := quartiles(all)
	return fmt.Sprintf("%+.0f %%, half within %+.0f to %+.0f", median, low, high)
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

// dd moves so many MiB in requests of the size, several times, and returns MB/s
// by the guest's clock, which /proc/uptime gives to 10 ms and which stands while
// the machine is paused.
func (m *machine) dd(ctx context.Context, args string, kib, mib, times int) (float64, error) {
	var out bytes.Buffer
	command := fmt.Sprintf(`sync; echo 1 >/proc/sys/vm/drop_caches
read -r begin _ </proc/uptime
for i in $(seq %d); do dd %s bs=%dk count=%d 2>/dev/null; done
read -r end _ </proc/uptime
echo $begin $end`,
		times, args, kib, mib*1024/kib)
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
	return float64(times*mib<<20) / 1e6 / (end - begin), nil
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
