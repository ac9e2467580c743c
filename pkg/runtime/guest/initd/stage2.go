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
	// unmountLimit is how long the data disk may be busy at the end.
	unmountLimit = 10 * time.Second
	maxSpec      = 1 << 20 // bytes
)

// stage2 is PID 1 of the root image. It returns when the machine is to go off;
// the error is for what failed before there was an agent to tell it.
func stage2(ctx context.Context, c *console) (cmdline.Line, error) {
	for _, m := range systemMounts() {
		if err := m.do(); err != nil {
			return cmdline.Line{}, err
		}
	}
	line, err := readCmdline()
	if err != nil {
		return line, err
	}
	if line.Probe {
		fmt.Println(cmdline.ProbeLine)
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
	g := newGuest(c)
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
		run, cancel := context.WithCancel(ctx)
		go func() { <-g.stop; cancel() }()
		g.sup.Run(run) //nolint:contextcheck // ends by the agent's or a signal's request
		cancel()
	}
	g.c.note("services have ended")
	if mounted == "" {
		return
	}
	if err := g.closeLogs(); err != nil {
		g.c.note("logs: %v", err)
	}
	if err := g.Thaw(ctx); err != nil {
		g.c.note("%v", err)
	}
	if err := datadisk.Unmount(mounted, unmountLimit); err != nil {
		g.c.note("data disk: %v", err)
		return
	}
	g.c.note("data disk unmounted")
}

// start does all that comes before the services. It returns where the data
// disk is mounted, "" if it is not.
func (g *guest) start(ctx context.Context, procs *proc.Table, line cmdline.Line) (mounted string, err error) {
	s, err := loadSpec(spec.Path)
	if err != nil {
		return "", err
	}
	g.setSpec(s)
	if err := unix.Sethostname([]byte(s.Name)); err != nil {
		return "", fmt.Errorf("host name %q: %w", s.Name, err)
	}
	if err := delegate(cgroupRoot); err != nil {
		return "", err
	}
	sup, err := supervise.New(supervise.Options{Spec: s, Procs: procs, Cgroups: cgroupRoot, Note: g.serviceNote})
	if err != nil {
		return "", err
	}
	var net sync.WaitGroup
	net.Go(func() { g.network(ctx, line) }) // the disk does not wait for it
	err = g.dataDisk(ctx, procs, s.Data, line)
	net.Wait()
	if err != nil {
		return "", err
	}
	if err := g.openLogs(sup, s); err != nil {
		return s.Data.Mount, err
	}
	g.setSupervisor(sup)
	return s.Data.Mount, nil
}

// network brings up lo and the device of the command line. Without a network
// the services still start, and the agent tells what is wrong: the data is
// reachable through it.
func (g *guest) network(ctx context.Context, line cmdline.Line) {
	if err := network.Loopback(); err != nil {
		g.trouble(err)
		return
	}
	if line.Net == nil {
		return
	}
	limited, cancel := context.WithTimeout(ctx, deviceDeadline)
	defer cancel()
	up := func(n cmdline.Net) error {
		g.c.note("network %s is up: %s", n.Device, n.Address)
		return network.WriteResolvConf(resolvConf, n.DNS)
	}
	var err error
	if line.Net.DHCP {
		err = network.DHCP(limited, ctx, line.Net.Device, up)
	} else if err = network.Up(limited, line.Net); err == nil {
		err = up(*line.Net)
	}
	if err != nil {
		g.trouble(err)
	}
}

// dataDisk finds, formats or checks, and mounts the data disk.
func (g *guest) dataDisk(ctx context.Context, procs *proc.Table, d spec.Data, line cmdline.Line) error {
	serial := d.Serial
	if line.DataSerial != "" {
		serial = line.DataSerial
	}
	find, cancel := context.WithTimeout(ctx, deviceDeadline)
	defer cancel()
	disk, err := blockdev.Find(find, blockdev.Sysfs, serial)
	if err != nil {
		return fmt.Errorf("data disk: %w", err)
	}
	run := func(ctx context.Context, argv ...string) (int, string, error) {
		status, out, err := procs.Output(ctx, proc.Attr{Path: argv[0], Args: argv, Dir: "/",
			Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}})
		if err == nil && !status.Exited() {
			err = errors.New(proc.Describe(status))
		}
		return status.ExitStatus(), out, err
	}
	note := func(s string) { g.c.note("data disk %s: %s", disk.Device(), s) }
	if err := datadisk.Prepare(ctx, disk.Device(), run, note); err != nil {
		return err
	}
	if err := datadisk.Mount(disk.Device(), d.Mount, note); err != nil {
		return err
	}
	g.c.note("data disk %s mounted at %s", disk.Device(), d.Mount)
	return nil
}

// loadSpec reads the guest spec strictly.
func loadSpec(path string) (spec.Spec, error) {
	f, err := os.Open(path)
	if err != nil {
		return spec.Spec{}, fmt.Errorf("guest spec: %w", err)
	}
	defer f.Close()
	var s spec.Spec
	d := json.NewDecoder(io.LimitReader(f, maxSpec))
	d.DisallowUnknownFields()
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
