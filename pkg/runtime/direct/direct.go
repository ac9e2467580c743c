// Package direct runs a bundle without sovereignd, for as long as the program
// lives that does. It is here until package runtime has its Host, and goes then.
package direct

import (
	"context"

	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// Run starts the bundle in dir, in a state directory, and returns its machine
// when the hypervisor is up.
func Run(ctx context.Context, stateDir, dir string) (*machine.Instance, error) {
	r, err := machine.Open(stateDir)
	if err != nil {
		return nil, err
	}
	i, err := r.Install(ctx, dir, "", runtime.UpOptions{Restart: runtime.RestartNever, Replace: true}, nil)
	if err != nil {
		return nil, err
	}
	return r.Settle(ctx, i.Name())
}
