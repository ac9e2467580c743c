package machine

import (
	"context"

	"github.com/sovereign-build/sovereign/internal/process"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// choosePorts sets the record's ports: those asked for, else those of the last
// start, else any. Between here and listen another program can take one; the
// error is then the same in words and class.
func (i *Instance) choosePorts(ctx context.Context, wanted map[int]int) error {
	var ports []Port
	taken := map[int]bool{}
	for _, host := range wanted {
		taken[host] = true
	}
	for _, p := range i.manifest.Ports {
		host := wanted[p.Port]
		if host != 0 {
			if _, err := process.PortFree(ctx, host); err != nil {
				return err
			}
		} else if last, ok := i.HostPort(p.Port); ok && !taken[last] {
			// In use now: another will do.
			if got, err := process.PortFree(ctx, last); err == nil {
				host = got
			}
		}
		for tries := 0; host == 0; tries++ {
			got, err := process.PortFree(ctx, 0)
			if err != nil {
				return err
			}
			if !taken[got] {
				host = got
			} else if tries == 100 {
				return fault.Errorf(fault.Environment, "no free TCP port for %d", p.Port).Hintf("end programs that hold many ports")
			}
		}
		taken[host] = true
		ports = append(ports, Port{Name: p.Name, Guest: p.Port, Host: host})
	}
	i.rec.Ports = ports
	return nil
}
