package initd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/blockdev"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/clock"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/cmdline"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/datadisk"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/network"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/proc"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/services"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/snapshot"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

const (
	// resolvConf is what the image's /etc/resolv.conf links to.
	resolvConf = "/run/resolv.conf"
	// ownOOMScoreAdj keeps the kernel from choosing init.
	ownOOMScoreAdj = -1000
	// networkPatience is how long the services wait for a network that begins,
	// which may never come: they start without it, and the agent tells.
	networkPatience = 5 * time.Second
	maxSpec         = 1 << 20 // bytes
	// checkLimit is how long e2fsck and mke2fs may take. A disk of a TiB with
	// errors everywhere takes an emulated machine an hour; for ever takes one
	// that hangs.
	checkLimit = 4 * time.Hour
	// checkGrace is how long they have to end in order: e2fsck hears TERM
	// between two inodes, and writes back what it has repaired.
	checkGrace = 30 * time.Second
	// startGrace is how long the start has to end when the machine is to go
	// off: as e2fsck, and a moment for the rest.
	startGrace = checkGrace + 15*time.Second
)

// takeOver makes this process what PID 1 has to be.
func (g *guest) takeOver() error {
	procs, err := proc.New()
	if err != nil {
		return err
	}
	if err := procs.SetOOMScoreAdj(ownOOMScoreAdj); err != nil {
		return err
	}
	if err := setSysctls("/proc/sys", sysctls()); err != nil {
		return err
	}
	g.runner = &services.Runner{Procs: procs, Cgroups: cgroupRoot}
	// Ctrl-Alt-Del becomes SIGINT instead of a reset.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		return fmt.Errorf("ctrl-alt-del: %w", err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT, syscall.SIGPWR)
	go func() {
		for s := range stop {
			g.c.note("%v: shutting down", s)
			g.requestStop()
		}
	}()
	return nil
}

// live runs the guest until it is asked to stop, and ends it in order.
func (g *guest) live(ctx context.Context) {
	booted := make(chan struct{})
	go g.serveAgent(ctx, booted)
	s, err := g.startUntilStop(ctx)
	beside := func() { close(booted); g.network(ctx) } // what no setup of a service waits for
	switch {
	case g.stopping():
		g.c.note("no service is started: %v", cmp.Or(err, errStopping))
	case err != nil:
		beside()
		g.fail(err)
		<-g.stop
	default:
		g.runServices(ctx, s, beside)
	}
	g.finish()
}

// startUntilStop is start, but a guest that is to go off meanwhile does not
// wait for all of it. What the kernel does not return from is left behind.
func (g *guest) startUntilStop(ctx context.Context) (spec.Spec, error) {
	type outcome struct {
		spec spec.Spec
		err  error
	}
	started := make(chan outcome, 1)
	go func() {
		s, err := g.start(ctx)
		started <- outcome{s, err}
	}()
	var late <-chan time.Time
	stop := g.stop
	for {
		select {
		case o := <-started:
			return o.spec, o.err
		case <-stop:
			stop, late = nil, time.After(startGrace)
		case <-late:
			return spec.Spec{}, errors.New("the start hangs, and is left behind")
		}
	}
}

// stopping says whether the machine is to go off.
func (g *guest) stopping() bool {
	select {
	case <-g.stop:
		return true
	default:
		return false
	}
}

// untilStop is a context that ends when the machine is to go off, too.
func (g *guest) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-g.stop:
			cancel(errStopping)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// start does all that comes before the services, and returns what they are.
// Without an error the data disk is mounted where they say.
func (g *guest) start(ctx context.Context) (s spec.Spec, err error) {
	made, err := imageDate(spec.Path)
	g.ntp = clock.New(clock.Options{Earliest: made, Servers: g.line.NTP, Note: func(s string) { g.c.note("%s", s) }, Report: g.setClock})
	close(g.rooted)
	var manager *services.Manager
	if err == nil {
		go g.ntp.Run(ctx) // without the image's date it could not tell a wrong answer
		s, manager, err = g.readSpec(made)
	}
	if err == nil {
		g.openData(ctx, s.Data.Serial)
	}
	if g.opened == nil {
		return s, err
	}
	data, diskErr := g.opened()
	if data != nil {
		defer data.Close() //nolint:errcheck // what is attached stays
	}
	if err := errors.Join(err, diskErr); err != nil {
		return s, err
	}
	if err := g.attach(data, s.Data.Mount); err != nil {
		return s, err
	}
	if err := g.mountRecovery(ctx); err != nil {
		return s, err
	}
	if !g.addressed() {
		g.settle(ctx)
	}
	g.setServices(manager)
	return s, nil
}

// readSpec reads what the machine is to run.
func (g *guest) readSpec(made time.Time) (spec.Spec, *services.Manager, error) {
	defer g.phases.begin("guest spec")()
	s, err := loadSpec(spec.Path)
	if err != nil {
		return s, nil, err
	}
	g.setSpec(s)
	if err := unix.Sethostname([]byte(s.Name)); err != nil {
		return s, nil, fmt.Errorf("host name %q: %w", s.Name, err)
	}
	manager, err := services.New(services.Options{Spec: s, Procs: g.runner.Procs, Cgroups: cgroupRoot, ImageDate: made,
		Machine: g.describe, Settle: g.settle, Phase: g.phases.begin, Note: g.serviceNote, Changed: g.news.tell})
	return s, manager, err
}

// addressed says whether the command line has the machine's addresses. If not,
// they are asked for while the root is opened: the services' setup needs them.
// If it has, the network begins with the services, whose setup leaves a
// processor free; the boot before that does not.
func (g *guest) addressed() bool {
	return (g.line.Net == nil || !g.line.Net.DHCP) && (g.line.Net6 == nil || !g.line.Net6.Auto)
}

// network brings up lo, and keeps the device of the command line, from its first
// call on. Without a network the services still start, and the agent tells what
// is wrong: the data is reachable through it. It may begin before the root is
// there, and then writes and tells what it found once that is.
func (g *guest) network(ctx context.Context) {
	g.begin.Do(func() {
		end := g.phases.begin("network")
		lo := make(chan struct{})
		go func() { g.trouble(topicLoopback, network.Loopback()); close(lo) }()
		up := network.Keep(ctx, network.Options{Net: g.line.Net, Net6: g.line.Net6, Resolv: resolvConf, After: g.rooted,
			Up: g.networkUp, Report: g.trouble})
		tried := make(chan struct{})
		go func() { <-lo; <-up; end(); close(tried) }()
		go func() {
			defer close(g.settled)
			select {
			case <-tried:
			case <-time.After(networkPatience):
				g.c.note("network: not up yet: the services start without it")
			}
		}()
	})
}

// networkUp is told when a device was configured.
func (g *guest) networkUp(n cmdline.Net) {
	if n.Auto {
		g.c.note("network %s takes addresses by router advertisements", n.Device)
	} else {
		g.c.note("network %s is up: %s", n.Device, n.Address)
	}
	if n.DHCP {
		var servers []string
		for _, a := range n.NTP {
			servers = append(servers, a.String())
		}
		g.ntp.Found(servers)
	}
}

// settle waits until the network was tried, or is late.
func (g *guest) settle(ctx context.Context) {
	select {
	case <-g.settled:
	case <-ctx.Done():
	}
}

// openData begins to open the data disk with the serial, unless one is being
// opened; g.opened waits for it. It is for the goroutine that boots.
func (g *guest) openData(ctx context.Context, serial string) {
	if g.opened != nil {
		return
	}
	g.opened = sync.OnceValues(func() (*datadisk.FileSystem, error) { return g.dataDisk(ctx, serial) })
	go g.opened() //nolint:errcheck // who waits for it has the error
}

// dataDisk finds, formats or checks, and mounts the data disk. It gives up when
// the machine is to go off.
func (g *guest) dataDisk(ctx context.Context, serial string) (*datadisk.FileSystem, error) {
	ctx, done := g.untilStop(ctx)
	defer done()
	find, cancel := context.WithTimeout(ctx, deviceDeadline)
	defer cancel()
	end := g.phases.begin("data disk: find")
	disk, err := blockdev.Find(find, blockdev.Sysfs, serial)
	if err != nil {
		return nil, fmt.Errorf("data disk: %w", err)
	}
	end()
	end = g.phases.begin("data disk: map")
	mapped, err := snapshot.Open(disk.Device())
	if err != nil {
		return nil, fmt.Errorf("data disk %s: %w", disk.Device(), err)
	}
	g.snapshots.disk = mapped
	end()
	<-g.verified // no data disk is touched before there is a root to use it
	run := func(ctx context.Context, argv ...string) (int, string, error) {
		<-g.rooted // has the program
		ctx, cancel := context.WithTimeout(ctx, checkLimit)
		defer cancel()
		r, err := g.runner.Procs.Output(ctx, proc.Attr{Path: argv[0], Args: argv, Dir: "/",
			Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Capabilities: proc.AllCapabilities, Grace: checkGrace})
		if err == nil && !r.Status.Exited() {
			err = errors.New(proc.Describe(r.Status))
		}
		return r.Status.ExitStatus(), r.Text(), err
	}
	end = g.phases.begin("data disk: check")
	if err := datadisk.Prepare(ctx, mapped.Device(), run, g.diskNote(disk.Device())); err != nil {
		return nil, err
	}
	end()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	defer g.phases.begin("data disk: mount")()
	return datadisk.Mount(mapped.Device())
}

// attach shows the data disk at dir, and makes its file system fill it. One
// that does not grow is as good as it was, and the services have it.
func (g *guest) attach(data *datadisk.FileSystem, dir string) error {
	if err := data.Attach(dir); err != nil {
		return err
	}
	g.setData(data.Device())
	g.c.note("data disk %s mounted at %s", data.Device(), dir)
	if err := g.lookBack(data.Device(), dir); err != nil {
		return err
	}
	g.trouble(topicGrowth, g.grow(data.Device(), dir))
	return nil
}

// grow makes the file system of the data disk fill it.
func (g *guest) grow(device, dir string) error {
	grown, err := datadisk.Grow(device, dir)
	if err == nil && grown > 0 {
		g.c.note("data disk %s: file system grown to %d MiB", device, grown>>20)
	}
	return err
}

func (g *guest) diskNote(device string) func(string) {
	return func(s string) { g.c.note("data disk %s: %s", device, s) }
}

// imageDate is when the image was made: every file of it has that date.
func imageDate(path string) (time.Time, error) {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}, fmt.Errorf("guest spec: %w", err)
	}
	return info.ModTime(), nil
}

// loadSpec reads the guest spec strictly.
func loadSpec(path string) (spec.Spec, error) {
	f, err := os.Open(path)
	if err != nil {
		return spec.Spec{}, fmt.Errorf("guest spec: %w", err)
	}
	defer f.Close()
	d := json.NewDecoder(io.LimitReader(f, maxSpec))
	d.DisallowUnknownFields()
	var s spec.Spec
	if err := d.Decode(&s); err != nil {
		return spec.Spec{}, fmt.Errorf("guest spec %s: %w: rebuild the image with the sovereign-init of the same version", path, err)
	}
	return s, nil
}

// delegate lets the services' control groups have limits of memory and of
// processes, where the kernel can. One that cannot is told when a service asks
// for a limit.
func delegate(root string) error {
	for _, controller := range []string{"+memory", "+pids"} {
		err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte(controller), 0)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("control groups: %w", err)
		}
	}
	return nil
}
