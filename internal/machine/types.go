package machine

import "github.com/sovereign-build/sovereign/pkg/runtime"

// The values of the API that this package keeps in its records and gives out.
type (
	BundleRef   = runtime.BundleRef
	Duration    = runtime.Duration
	End         = runtime.End
	Ends        = runtime.Ends
	Event       = runtime.Event
	Grown       = runtime.Grown
	Kept        = runtime.Kept
	LogLine     = runtime.LogLine
	MachineID   = runtime.MachineID
	Memory      = runtime.Memory
	Moment      = runtime.Moment
	Options     = runtime.Options
	Outcome     = runtime.Outcome
	Phase       = runtime.Phase
	Policy      = runtime.Policy
	Port        = runtime.Port
	Report      = runtime.Report
	Restart     = runtime.Restart
	SecretRef   = runtime.SecretRef
	Slot        = runtime.Slot
	SlotName    = runtime.SlotName
	State       = runtime.State
	Status      = runtime.Status
	StopResult  = runtime.StopResult
	Supervision = runtime.Supervision
	Trial       = runtime.Trial
	UpOptions   = runtime.UpOptions
	Waiting     = runtime.Waiting
	Wanted      = runtime.Wanted
)

// Their constants; see package runtime.
const (
	Up   = runtime.Up
	Down = runtime.Down
	// notAdopted: an older version started it from a bundle's directory, for
	// nobody to start it again. The next step writes down what is wanted of it.
	notAdopted Wanted = ""

	RestartAlways = runtime.RestartAlways
	RestartNever  = runtime.RestartNever

	Running    = runtime.Running
	Paused     = runtime.Paused
	Stopped    = runtime.Stopped
	Exited     = runtime.Exited
	Restarting = runtime.Restarting
	GaveUp     = runtime.GaveUp
	Unreadable = runtime.Unreadable

	DataKeep = runtime.DataKeep
	DataKept = runtime.DataKept
	DataBack = runtime.DataBack
	DataGone = runtime.DataGone

	PhaseInstall = runtime.PhaseInstall
	PhaseProbe   = runtime.PhaseProbe
	PhaseStart   = runtime.PhaseStart
	PhaseKernel  = runtime.PhaseKernel
	PhaseInit    = runtime.PhaseInit
	PhaseService = runtime.PhaseService
	PhaseReady   = runtime.PhaseReady
)

// DefaultPolicy is runtime's.
func DefaultPolicy() Policy { return runtime.DefaultPolicy() }

// tell reports a line of progress to whoever wants it.
func tell(r Report, p Phase, text string) {
	if r != nil {
		r(Event{Phase: p, Text: text})
	}
}
