package machine

import (
	"context"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// choosePorts sets the record's ports: those asked for, else those of the last
// start, else any. Between here and the hypervisor's own bind another program
// can take one; the hypervisor's error is then the same in words and class.
func (i *Instance) choosePorts(ctx context.Context, wanted map[int]int) error {
	device := i.r.device
	var ports []Port
	taken := map[int]bool{}
	for _, host := range wanted {
		taken[host] = true
	}
	for _, p := range i.manifest.Ports {
		host := wanted[p.Port]
		if host != 0 {
			if _, err := device.PortFree(ctx, host); err != nil {
				return err
			}
		} else if last, ok := i.HostPort(p.Port); ok && !taken[last] {
			// In use now: another will do.
			if got, err := device.PortFree(ctx, last); err == nil {
				host = got
			}
		}
		for tries := 0; host == 0; tries++ {
			got, err := device.PortFree(ctx, 0)
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
