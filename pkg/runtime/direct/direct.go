// Package direct lends a program the machines of a state directory without
// sovereignd. It is here until package runtime has its Host, and goes then.
package direct

import "github.com/sovereign-build/sovereign/internal/machine"

// StartOptions are internal/machine's.
type StartOptions = machine.StartOptions

// Open is internal/machine's.
func Open(stateDir string) (*machine.Runtime, error) { return machine.Open(stateDir) }
