package initd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/cmdline"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/datadisk"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/metrics"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/network"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/services"
)

// dataEvery is how often the room on the data disk is looked at.
const dataEvery = 10 * time.Second

// Exec implements agent.Operator.
func (g *guest) Exec(ctx context.Context, r agent.ExecRequest, std agent.ExecIO) (int, error) {
	select {
	case <-g.stop:
		return 0, services.ErrShutdown
	default:
	}
	g.c.note("exec %s as %s", r.Argv[0], cmp.Or(r.User, "root"))
	return g.runner.Exec(ctx, r, std)
}

// SetSecret implements agent.Operator.
func (g *guest) SetSecret(ctx context.Context, service, name, value string) error {
	manager, err := g.services()
	if err != nil {
		return err
	}
	return manager.SetSecret(ctx, service, name, value)
}

// RotateSecret implements agent.Operator.
func (g *guest) RotateSecret(ctx context.Context, service, name string) error {
	manager, err := g.services()
	if err != nil {
		return err
	}
	return manager.RotateSecret(ctx, service, name)
}

// RestartService implements agent.Operator.
func (g *guest) RestartService(ctx context.Context, service string) error {
	manager, err := g.services()
	if err != nil {
		return err
	}
	g.c.note("%s: restart asked for by the agent", service)
	return manager.Restart(ctx, service)
}

// Boot implements agent.Operator.
func (g *guest) Boot() agent.Boot { return g.phases.boot() }

// Metrics implements agent.Operator.
func (g *guest) Metrics(w io.Writer) error {
	return metrics.Write(w, metrics.Source{Proc: "/proc", Cgroups: cgroupRoot, Status: g.Status()})
}

func (g *guest) data() (device, mount string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.device == "" {
		err = errors.New("the data disk is not in use: see the status")
	}
	return g.device, g.mount, err
}

// Freeze implements agent.Backend.
func (g *guest) Freeze(_ context.Context, limit time.Duration) error {
	_, mount, err := g.data()
	if err != nil {
		return fmt.Errorf("freeze: %w", err)
	}
	return g.freezer.Freeze(mount, limit)
}

// Thaw implements agent.Backend.
func (g *guest) Thaw(context.Context) error { return g.freezer.Thaw() }

// dataRoom asks the file system; nil where it does not answer.
func dataRoom(mount string) *agent.Data {
	var st unix.Statfs_t
	if err := unix.Statfs(mount, &st); err != nil {
		return nil
	}
	return &agent.Data{Size: int64(st.Blocks) * st.Bsize, Free: int64(st.Bavail) * st.Bsize}
}

// describe tells the services' commands what they run on, which the settings of
// a server may depend on. Addresses that cannot be told are left out, and the
// status says why.
func (g *guest) describe() map[string]string {
	env := map[string]string{}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err == nil {
		env["SOVEREIGN_MEMORY_MIB"] = strconv.FormatUint(info.Totalram*uint64(info.Unit)>>20, 10)
	}
	if _, mount, err := g.data(); err == nil {
		if d := dataRoom(mount); d != nil {
			env["SOVEREIGN_DATA_MIB"] = strconv.FormatInt(d.Size>>20, 10)
		}
	}
	addresses, err := g.addresses()
	g.trouble(topicAddresses, err)
	var texts []string
	for _, a := range addresses {
		texts = append(texts, a.String())
	}
	env["SOVEREIGN_ADDRESSES"] = strings.Join(texts, ",")
	return env
}

// addresses are those that the machine has, and before its network has settled
// those that the command line gives it.
func (g *guest) addresses() (all []netip.Addr, err error) {
	select {
	case <-g.settled:
		for _, device := range g.devices {
			list, wrong := network.Addresses(device)
			all, err = append(all, list...), errors.Join(err, wrong)
		}
	default:
		for _, n := range []*cmdline.Net{g.line.Net, g.line.Net6} {
			if n != nil && n.Address.IsValid() {
				all = append(all, n.Address.Addr())
			}
		}
	}
	return all, err
}

// nearlyFull is a warning when less than a tenth, or less than 256 MiB, of the
// data disk is free; of a disk below 1 GiB, less than a quarter.
func nearlyFull(d agent.Data) string {
	if d.Free >= max(d.Size/10, min(256<<20, d.Size/4)) {
		return ""
	}
	return fmt.Sprintf("data disk nearly full: %d of %d MiB are free: remove data or grow the disk", d.Free>>20, d.Size>>20)
}

// full is when nearly nothing is left, and a service that writes is about to
// fail.
func full(d agent.Data) error {
	if d.Free >= max(d.Size/100, 8<<20) {
		return nil
	}
	return fmt.Errorf("data disk full: %d of %d MiB are free: remove data or grow the disk", d.Free>>20, d.Size>>20)
}

// watchData tells of a data disk that fills up, or that the kernel writes to no
// more, until ctx ends.
func (g *guest) watchData(ctx context.Context) {
	tick := time.NewTicker(dataEvery)
	defer tick.Stop()
	for warned := false; ; {
		g.trouble(topicErrors, datadisk.Errors(g.device))
		if d := dataRoom(g.mount); d != nil {
			g.trouble(topicData, full(*d))
			text := nearlyFull(*d)
			if text != "" && !warned {
				g.c.note("%s", text)
			}
			if warned != (text != "") {
				g.news.tell()
			}
			warned = text != ""
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
