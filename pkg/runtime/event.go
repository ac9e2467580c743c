package runtime

// Phase says what an Event is about.
type Phase string

// Phases of a start, in their order, and PhaseStatus.
const (
	PhaseInstall Phase = "install" // a bundle is copied into a slot
	PhaseProbe   Phase = "probe"   // finding out whether KVM works
	PhaseStart   Phase = "start"   // the hypervisor starts
	PhaseKernel  Phase = "kernel"  // the guest's console says something
	PhaseInit    Phase = "init"    // the guest's agent answers
	PhaseService Phase = "service" // a service changed its state
	PhaseReady   Phase = "ready"   // every service is healthy

	// PhaseStatus: the event's Status is not what it was.
	PhaseStatus Phase = "status"
	// PhaseKeep: sovereignd did something, which Text says.
	PhaseKeep Phase = "keep"
	// PhaseProgress: something has come further, which Progress says.
	PhaseProgress Phase = "progress"
	// PhaseRemoved: the machine is no more.
	PhaseRemoved Phase = "removed"
)

// Event is a line of progress, or of what happens to machines.
type Event struct {
	Phase Phase  `json:"phase"`
	Text  string `json:"text,omitempty"` // for people: "postgresql: starting"
	// Machine is the name of the machine, in events of Watch.
	Machine string `json:"machine,omitempty"`
	// Status is what the machine is now, with PhaseStatus.
	Status *Status `json:"status,omitempty"`
	// Progress is that of a backup, a restore or a check, with PhaseProgress.
	Progress *Progress `json:"progress,omitempty"`
}

// Report takes events, in order, from one goroutine at a time. It may be nil.
type Report func(Event)

func (r Report) tell(p Phase, text string) {
	if r != nil {
		r(Event{Phase: p, Text: text})
	}
}
