package initd

import (
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
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/supervise"
)

const (
	// resolvConf is what the image's /etc/resolv.conf links to.
	resolvConf = "/run/resolv.conf"
	// ownOOMScoreAdj keeps the kernel from choosing init.
	ownOOMScoreAdj = -1000
	// networkPatience is how long the services wait for a network, which may
	// never come: they start without it, and the agent tells.
	networkPatience = 5 * time.Second
	maxSpec         = 1 << 20 // bytes
)

// stage2 is PID 1 of the root image. It returns when the machine is to go off;
// the error is for what failed before there was an agent to tell it.
func stage2(ctx context.Context, c *console, p *phases) (cmdline.Line, error) {
	end := p.begin("mounts")
	for _, m := range systemMounts() {
		if err := m.do(); err != nil {
			return cmdline.Line{}, err
		}
	}
	end()
	line, err := readCmdline()
	if err != nil {
		return line, err
	}
	if line.Probe {
		c.print(cmdline.ProbeLine + "\n")
		return line, nil
	}
	procs, err := proc.New()
	if err != nil {
		return line, err
	}
	if err := procs.SetOOMScoreAdj(ownOOMScoreAdj); err != nil {
		return line, err
	}
	// Ctrl-Alt-Del becomes SIGINT instead of a reset.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		return line, fmt.Errorf("ctrl-alt-del: %w", err)
	}
	if err := delegate(cgroupRoot); err != nil {
		return line, err
	}
	g := newGuest(c, p, &supervise.Runner{Procs: procs, Cgroups: cgroupRoot})
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT, syscall.SIGPWR)
	go func() {
		for s := range stop {
			c.note("%v: shutting down", s)
			g.requestStop()
		}
	}()
	g.serveAgent(ctx)
	g.live(ctx, procs, line)
	return line, nil
}

// live runs the guest until it is asked to stop, and ends it in order.
func (g *guest) live(ctx context.Context, procs *proc.Table, line cmdline.Line) {
	mounted, err := g.start(ctx, procs, line)
	if err != nil {
		g.fail(err)
		<-g.stop
	} else {
		g.runServices(ctx)
	}
	g.finish(mounted)
}

// start does all that comes before the services. It returns where the data
// disk is mounted, "" if it is not.
func (g *guest) start(ctx context.Context, procs *proc.Table, line cmdline.Line) (mounted string, err error) {
	made, err := imageDate(spec.Path)
	if err != nil {
		return "", err
	}
	tried := g.network(ctx, line, made) // the disk does not wait for it
	disk := func() (*datadisk.FileSystem, error) { return nil, nil }
	open := func(serial string) {
		disk = sync.OnceValues(func() (*datadisk.FileSystem, error) { return g.dataDisk(ctx, procs, serial) })
		go disk() //nolint:errcheck // is waited for below
	}
	// A disk that the command line names does not wait for the spec either.
	if line.DataSerial != "" {
		open(line.DataSerial)
	}
	s, sup, err := g.readSpec(procs, made)
	if err == nil && line.DataSerial == "" {
		open(s.Data.Serial)
	}
	data, diskErr := disk()
	if data != nil {
		defer data.Close() //nolint:errcheck // what is attached stays
	}
	if err := errors.Join(err, diskErr); err != nil {
		return "", err
	}
	if err := g.attach(data, s.Data.Mount); err != nil {
		return "", err
	}
	select {
	case <-tried:
	case <-time.After(networkPatience):
		g.c.note("network: not up yet: the services start without it")
	}
	g.logsOpen.Go(func() { g.openLogs(sup, s) }) // until then they keep their lines in memory
	go g.watchData(ctx)
	g.setSupervisor(sup)
	return s.Data.Mount, nil
}

// readSpec reads what the machine is to run.
func (g *guest) readSpec(procs *proc.Table, made time.Time) (spec.Spec, *supervise.Supervisor, error) {
	defer g.phases.begin("guest spec")()
	s, err := loadSpec(spec.Path)
	if err != nil {
		return s, nil, err
	}
	g.setSpec(s)
	if err := unix.Sethostname([]byte(s.Name)); err != nil {
		return s, nil, fmt.Errorf("host name %q: %w", s.Name, err)
	}
	sup, err := supervise.New(supervise.Options{Spec: s, Procs: procs, Cgroups: cgroupRoot, ImageDate: made,
		Phase: g.phases.begin, Note: g.serviceNote})
	return s, sup, err
}

// network brings up lo, and keeps the device of the command line and the clock.
// Without a network the services still start, and the agent tells what is
// wrong: the data is reachable through it.
func (g *guest) network(ctx context.Context, line cmdline.Line, imageDate time.Time) (tried <-chan struct{}) {
	end := g.phases.begin("network")
	g.trouble(topicLoopback, network.Loopback())
	clock := clock.New(clock.Options{Earliest: imageDate, Servers: line.NTP, Note: func(s string) { g.c.note("%s", s) }, Report: g.setClock})
	go clock.Run(ctx)
	up := network.Keep(ctx, network.Options{Net: line.Net, Net6: line.Net6, Resolv: resolvConf, Report: g.trouble,
		Up: func(n cmdline.Net) {
			if n.Auto {
				g.c.note("network %s takes addresses by router advertisements", n.Device)
			} else {
				g.c.note("network %s is up: %s", n.Device, n.Address)
			}
			var servers []string
			for _, a := range n.NTP {
				servers = append(servers, a.String())
			}
			if n.DHCP {
				clock.Found(servers)
			}
		}})
	done := make(chan struct{})
	go func() { <-up; end(); close(done) }()
	return done
}

// dataDisk finds, formats or checks, and mounts the data disk.
func (g *guest) dataDisk(ctx context.Context, procs *proc.Table, serial string) (*datadisk.FileSystem, error) {
	find, cancel := context.WithTimeout(ctx, deviceDeadline)
	defer cancel()
	end := g.phases.begin("data disk: find")
	disk, err := blockdev.Find(find, blockdev.Sysfs, serial)
	if err != nil {
		return nil, fmt.Errorf("data disk: %w", err)
	}
	end()
	run := func(ctx context.Context, argv ...string) (int, string, error) {
		r, err := procs.Output(ctx, proc.Attr{Path: argv[0], Args: argv, Dir: "/",
			Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}})
		if err == nil && !r.Status.Exited() {
			err = errors.New(proc.Describe(r.Status))
		}
		return r.Status.ExitStatus(), r.Text(), err
	}
	end = g.phases.begin("data disk: check")
	if err := datadisk.Prepare(ctx, disk.Device(), run, g.diskNote(disk.Device())); err != nil {
		return nil, err
	}
	end()
	defer g.phases.begin("data disk: mount")()
	return datadisk.Mount(disk.Device())
}

// attach shows the data disk at dir.
func (g *guest) attach(data *datadisk.FileSystem, dir string) error {
	if err := data.Attach(dir, g.diskNote(data.Device())); err != nil {
		return err
	}
	g.setData(data.Device())
	g.c.note("data disk %s mounted at %s", data.Device(), dir)
	return nil
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

// delegate lets the services' control groups have memory limits, where the
// kernel can. One that cannot is told when a service asks for a limit.
func delegate(root string) error {
	err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+memory"), 0)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("control groups: %w", err)
	}
	return nil
}
