package runtime

import (
	"context"
	"net/http"
)

// HostProcesses are the processes of a host that machines depend on.
type HostProcesses struct {
	System  string `json:"system"` // "Linux 6.6.30"
	Android bool   `json:"android,omitempty"`
	// Processes are sovereignd and, of each machine that runs, the hypervisor.
	Processes []HostProcess `json:"processes"`
}

// HostProcess is how the host's kernel treats a process.
type HostProcess struct {
	Machine string `json:"machine,omitempty"` // empty for sovereignd
	PID     int    `json:"pid"`
	// OOMScoreAdj is from -1000, never ended for memory, to 1000, the first.
	OOMScoreAdj int `json:"oom_score_adj"`
	// Cgroup is the path in cgroup v2's hierarchy, "/" its root; empty where
	// there is none.
	Cgroup string `json:"cgroup"`
}

// Processes asks for them as they are now. A sovereignd from before this was
// asked answers with an error of class fault.Device.
func (h *Host) Processes(ctx context.Context) (HostProcesses, error) {
	var p HostProcesses
	err := h.ask(ctx, http.MethodGet, "/v1/processes", nil, &p)
	return p, err
}
