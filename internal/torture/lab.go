package torture

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	engine "github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/local"
	"github.com/sovereign-build/sovereign/pkg/runtime/qemu"
)

// lab is one run of the experiment.
type lab struct {
	Options
	dir      string
	rt       *engine.Runtime
	seam     *seam
	manifest *bundle.Manifest
	digest   string

	// template is the data disk of a machine that was booted once, filled with
	// the tables and stopped in order. The machines begin with copies of it.
	template  string
	firstBoot time.Duration // from QEMU's start to ready, with format and initdb

	machines          []*machine
	hypervisor, accel string
}

func newLab(ctx context.Context, o Options) (*lab, error) {
	l := &lab{Options: o, dir: o.Scratch, seam: newSeam()}
	var err error
	if l.Bundle, err = filepath.Abs(o.Bundle); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	if o.Programs != "" {
		if l.Programs, err = filepath.Abs(o.Programs); err != nil {
			return nil, fault.Wrap(fault.Environment, err)
		}
	}
	if l.manifest, err = bundle.Load(l.Bundle); err != nil {
		return nil, err
	}
	if l.digest, err = bundle.Digest(l.Bundle); err != nil {
		return nil, err
	}
	if l.dir == "" {
		l.dir, err = os.MkdirTemp("", "torture-")
	} else if l.dir, err = filepath.Abs(l.dir); err == nil {
		err = os.MkdirAll(l.dir, 0o700)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	cache := filepath.Join(l.dir, "cache")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	here := device{local.Device{}, l.seam}
	l.rt, err = engine.Open(l.dir, engine.WithHypervisor(here, qemu.New(here, cache)))
	return l, err
}

func (l *lab) begin() *Report {
	return &Report{
		Schema: 1, Seed: l.Seed, Rounds: l.Rounds, Bundle: l.digest, Host: host(), Started: time.Now().UTC().Truncate(time.Second),
	}
}

// host is this machine in a few words.
func host() string {
	model := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil { // for people; unknown is fine
		for line := range strings.SplitSeq(string(text), "\n") {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d × %s", runtime.NumCPU(), model)
}

func (l *lab) say(format string, args ...any) { l.Report(fmt.Sprintf(format, args...)) }

// makeTemplate boots a machine with a blank disk, makes the tables and stops
// it in order.
func (l *lab) makeTemplate(ctx context.Context) error {
	m, err := l.newMachine(ctx, "template", blank)
	if err != nil {
		return err
	}
	if l.firstBoot, err = m.boot(ctx); err != nil {
		return err
	}
	l.say("first boot %.1f s", l.firstBoot.Seconds())
	id := m.inst.Machine()
	l.hypervisor, l.accel = id.Hypervisor, id.Accel
	if err := m.makeTables(ctx); err != nil {
		return err
	}
	if err := m.stop(ctx); err != nil {
		return err
	}
	l.template = m.image()
	return nil
}
