package cli

import (
	"context"
	"io"

	runtime "github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// Instance is one machine as the commands reach into it; *runtime.Instance is
// the real one.
type Instance interface {
	Name() string
	Bundle() runtime.BundleRef
	Manifest() *bundle.Manifest
	URL(ctx context.Context, port int) (string, error)
	Exec(ctx context.Context, r agent.ExecRequest, std agent.ExecIO) (int, error)
	Boot(ctx context.Context) (agent.Boot, error)
	LogNames() []string
	Logs(ctx context.Context, services []string, follow bool, line func(runtime.LogLine) error) error
	Secrets() []runtime.SecretRef
	Secret(ctx context.Context, ref runtime.SecretRef) (string, error)
	SetSecret(ctx context.Context, ref runtime.SecretRef, value string) error
	RotateSecret(ctx context.Context, ref runtime.SecretRef) error
	Memory(ctx context.Context) (runtime.Memory, error)
	Balloon(ctx context.Context, size int64) (runtime.Memory, error)
	Grow(ctx context.Context, size int64) (runtime.Grown, error)
	Console(ctx context.Context) (io.ReadWriteCloser, error)
	ConsoleTail(lines int) string
}

func (m machines) Instance(ctx context.Context, name string) (Instance, error) {
	i, err := m.instance(ctx, name)
	if err != nil {
		return nil, err // not an Instance that holds nil
	}
	return i, nil
}

func (machines) Names() ([]string, error) {
	r, err := runtime.Open("")
	if err != nil {
		return nil, err
	}
	return r.Names()
}

// nearlyFull says whether less than a tenth, or less than 256 MiB, of a data
// disk is free; of a disk below 1 GiB, less than a quarter. The guest itself
// warns at the same.
func nearlyFull(size, free int64) bool { return free < max(size/10, min(256<<20, size/4)) }

// guest adds what the guest says of itself.
func (m MachineStatus) guest(g *agent.Status) MachineStatus {
	m.Clock = string(g.Clock)
	if d := g.Data; d != nil {
		m.Data = &DataStatus{Size: d.Size, Free: d.Free, NearlyFull: nearlyFull(d.Size, d.Free)}
	}
	for _, v := range g.Services {
		m.Services = append(m.Services, ServiceStatus{
			Name: v.Name, State: string(v.State), Healthy: v.Healthy, Restarts: v.Restarts,
			Message: v.Message, Warning: v.Warning, Optional: v.Optional,
		})
	}
	return m
}
