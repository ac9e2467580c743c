package live

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/audit"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

func (l *look) spec(ctx context.Context) {
	ctx, stop := context.WithTimeout(ctx, probeLimit)
	defer stop()
	text, err := l.run(ctx, "cat", spec.Path)
	if err != nil {
		l.facts.Image.Spec = audit.Unseen[*spec.Spec]("%v", err)
		return
	}
	s := new(spec.Spec)
	l.facts.Image.Spec = audit.Look(s, json.Unmarshal(text, s))
}

// inRoot calls find for the root file system alone. Busybox's find may be
// without -xdev: directories on which something else is mounted are left out.
const inRoot = `
what=$1
shift
for d in /*; do
	[ -d "$d" ] && [ ! -L "$d" ] && ! mountpoint -q "$d" && set -- "$@" "$d"
done
case $what in
names) exec find "$@" -type f \( -perm -100 -size +0 -o -name 'icudt*.dat' \) -exec stat -c '%s %a %n' {} + ;;
heads) exec find "$@" -type f -perm -100 -size +0 -exec head -q -c 4096 {} + ;;
esac
`

// files reads the heads of all executables, by two programs for all of them: the
// root is read-only, so that both see the same files in the same order. The
// first finds ICU's data too.
func (l *look) files(ctx context.Context) (programs audit.Known[[]audit.Program], data audit.Known[[]audit.File]) {
	list, err := l.shell(ctx, inRoot, "names")
	if err != nil {
		return audit.Unseen[[]audit.Program]("%v", err), audit.Unseen[[]audit.File]("%v", err)
	}
	executables, icu, err := parseFiles(list)
	data = audit.Look(icu, err)
	heads, headsErr := l.shell(ctx, inRoot, "heads")
	if err = errors.Join(err, headsErr); err != nil {
		return audit.Unseen[[]audit.Program]("%v", err), data
	}
	all, err := parsePrograms(executables, heads)
	if err != nil {
		return audit.Unseen[[]audit.Program]("%v", err), data
	}
	for i := range all {
		if p := &all[i]; p.WantsData() {
			b, err := l.shell(ctx, `tail -c "+$1" "$2" | head -c "$3"`, strconv.FormatInt(p.Data+1, 10), p.Path, strconv.Itoa(audit.DataSize))
			if err != nil {
				return audit.Unseen[[]audit.Program]("%v", err), data
			}
			p.LookAtData(b)
		}
	}
	return audit.Saw(all), data
}

// devices starts no program for each device but a shell of its own.
func (l *look) devices(ctx context.Context) audit.Known[[]audit.Device] {
	out, err := l.shell(ctx, `
for d in /sys/bus/virtio/devices/*; do
	[ -e "$d" ] || continue
	read -r id <"$d/device"
	read -r features <"$d/features"
	driver=$(cd -P "$d/driver" 2>/dev/null && pwd) || driver=
	case $(cd -P "$d" && pwd) in */pci[0-9]*) bus=pci ;; *) bus=mmio ;; esac
	echo "${d##*/} $id ${driver##*/}- $bus $features"
done`)
	if err != nil {
		return audit.Unseen[[]audit.Device]("%v", err)
	}
	return audit.Look(parseDevices(out))
}

func (l *look) protocols(ctx context.Context) audit.Known[[]string] {
	out, err := l.something(ctx, "cat", "/proc/net/protocols")
	if err != nil {
		return audit.Unseen[[]string]("%v", err)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 0 {
			names = append(names, f[0])
		}
	}
	return audit.Saw(names)
}

func (l *look) kernelLog(ctx context.Context) audit.Known[[]audit.LogLine] {
	out, err := l.something(ctx, "dmesg")
	if err != nil {
		return audit.Unseen[[]audit.LogLine]("%v", err)
	}
	return audit.Saw(parseLog(out))
}

// slotBytes is a slot of the pool: 1 << IO_TLB_SHIFT of linux/swiotlb.h.
const slotBytes = 2048

func (l *look) poolPeak(ctx context.Context) audit.Known[int64] {
	k := l.number(ctx, "/sys/kernel/debug/swiotlb/io_tlb_used_hiwater")
	if !k.Seen {
		return audit.Unseen[int64]("%s", k.Why)
	}
	return audit.Saw(int64(k.Value) * slotBytes)
}

const randomBytes = 32

// entropy reads random numbers, and keeps none.
func (l *look) entropy(ctx context.Context) audit.Known[audit.Entropy] {
	source, err := l.something(ctx, "cat", "/sys/class/misc/hw_random/rng_current")
	if err != nil {
		return audit.Unseen[audit.Entropy]("%v", err)
	}
	e := audit.Entropy{Source: strings.TrimSpace(string(source))}
	ready, err := l.run(ctx, "timeout", "5", "head", "-c", strconv.Itoa(randomBytes), "/dev/random")
	if err != nil && ctx.Err() != nil {
		return audit.Unseen[audit.Entropy]("%v", err)
	}
	e.Ready = err == nil && len(ready) == randomBytes
	if e.Source != "" && e.Source != "none" {
		raw, err := l.run(ctx, "timeout", "10", "head", "-c", strconv.Itoa(randomBytes), "/dev/hwrng")
		if err != nil {
			return audit.Unseen[audit.Entropy]("%v", err)
		}
		e.Fresh = fresh(raw)
	}
	return audit.Saw(e)
}

// fresh says whether the two halves of what a source gave differ, and neither is
// all zero.
func fresh(raw []byte) bool {
	a, b, zero := raw[:len(raw)/2], raw[len(raw)/2:], make([]byte, randomBytes/2)
	return len(raw) == randomBytes && !bytes.Equal(a, b) && !bytes.Equal(a, zero) && !bytes.Equal(b, zero)
}

func (l *look) services(ctx context.Context) audit.Known[[]audit.Service] {
	var all []audit.Service
	for _, s := range l.status.Guest.Services {
		v := audit.Service{Name: s.Name, PID: s.PID, Healthy: s.Healthy, Optional: s.Optional, Restarts: s.Restarts}
		if s.PID > 0 {
			line, err := l.run(ctx, "cat", fmt.Sprintf("/proc/%d/cmdline", s.PID))
			if err != nil {
				return audit.Unseen[[]audit.Service]("%v", err)
			}
			v.Command = strings.FieldsFunc(string(line), func(r rune) bool { return r == 0 })
		}
		all = append(all, v)
	}
	return audit.Saw(all)
}

func (l *look) listeners(ctx context.Context) audit.Known[[]audit.Listener] {
	out, err := l.something(ctx, "cat", "/proc/net/tcp", "/proc/net/tcp6")
	if err != nil {
		return audit.Unseen[[]audit.Listener]("%v", err)
	}
	return audit.Look(parseListeners(out))
}

// sizes of reads, and how many of each are made before the clock is looked at.
var sizes = []struct{ kib, count int }{{4, 1024}, {64, 128}, {1024, 8}}

// readDisk reads the beginning of the disk with a serial, which has data and no
// holes, past the guest's cache, again and again for half a second: the guest's
// clock has hundredths of them. It prints how often, and how long that took.
const readDisk = `
for b in /sys/block/vd*; do
	s=
	read -r s <"$b/serial" || [ -n "$s" ] || continue
	[ "$s" != "$1" ] || disk=${b##*/}
done
[ -n "$disk" ] || { echo "no disk has the serial $1" >&2; exit 1; }
read -r sectors <"/sys/block/$disk/size"
[ $((sectors / 2)) -ge $(($2 * $3)) ] || { echo "$disk is too small to be measured" >&2; exit 1; }
now() {
	read -r up _ </proc/uptime
	now=${up%.*}${up#*.}
}
now
begin=$now
n=0
while [ $((now - begin)) -lt 50 ] && [ $n -lt 100 ]; do
	dd if="/dev/$disk" of=/dev/null iflag=direct bs="$2"k count="$3" 2>/dev/null || { echo "$disk cannot be read" >&2; exit 1; }
	n=$((n + 1))
	now
done
echo "$n $((now - begin))"
`

func (l *look) disk(ctx context.Context) audit.Known[[]audit.Speed] {
	var all []audit.Speed
	for _, size := range sizes {
		out, err := l.shell(ctx, readDisk, l.facts.Manifest.Root.Serial, strconv.Itoa(size.kib), strconv.Itoa(size.count))
		if err != nil {
			return audit.Unseen[[]audit.Speed]("%v", err)
		}
		times, took, err := parseTimes(out)
		if err != nil {
			return audit.Unseen[[]audit.Speed]("%v", err)
		}
		request := int64(size.kib) << 10
		all = append(all, audit.Speed{Request: request, Bytes: request * int64(size.count) * int64(times), Took: took})
	}
	return audit.Saw(all)
}

// service is that whose program is called so.
func (l *look) service(program string) (s spec.Service, ok bool) {
	if !l.facts.Image.Spec.Seen {
		return s, false
	}
	for _, s := range l.facts.Image.Spec.Value.Services {
		if len(s.Command) > 0 && path.Base(s.Command[0]) == program {
			return s, true
		}
	}
	return s, false
}

func (l *look) tailnet(ctx context.Context) audit.Known[audit.Tailnet] {
	s, ok := l.service("tailscaled")
	if !ok {
		return audit.Unseen[audit.Tailnet]("no service is tailscaled")
	}
	socket := ""
	for _, a := range s.Command {
		if v, ok := strings.CutPrefix(a, "--socket="); ok {
			socket = v
		}
	}
	status, err := l.run(ctx, "tailscale", "--socket="+socket, "status", "--json", "--peers=false")
	if err != nil {
		return audit.Unseen[audit.Tailnet]("%v", err)
	}
	t, err := parseTailnet(status, nil)
	if err == nil && t.State == "Running" {
		var serve []byte
		if serve, err = l.run(ctx, "tailscale", "--socket="+socket, "serve", "status", "--json"); err == nil {
			t, err = parseTailnet(status, serve)
		}
	}
	return audit.Look(t, err)
}

var errNoServer = errors.New("no service runs postgres")
