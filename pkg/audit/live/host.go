package live

import (
	"context"

	"github.com/sovereign-build/sovereign/pkg/audit"
)

// lookAtHost asks the host's sovereignd how its kernel treats it and the
// machine's hypervisor.
func lookAtHost(ctx context.Context, h daemon, machine string) audit.Known[audit.Host] {
	p, err := h.Processes(ctx)
	if err != nil {
		return audit.Unseen[audit.Host]("its sovereignd does not tell, it may be an older one: %v", err)
	}
	host := audit.Host{Android: p.Android, System: p.System}
	for _, v := range p.Processes {
		role := "sovereignd"
		switch v.Machine {
		case machine:
			role = "hypervisor"
		case "":
		default:
			continue // another machine's
		}
		group := v.Cgroup
		if group == "" {
			group = "no control group"
		}
		host.Processes = append(host.Processes, audit.Process{Role: role, PID: v.PID, OOMScoreAdj: v.OOMScoreAdj, Cgroup: group})
	}
	return audit.Saw(host)
}
