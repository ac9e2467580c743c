package runtime

// Phase is a step on the way to a machine that is ready.
type Phase string

// Phases, in their order.
const (
	PhaseInstall Phase = "install" // a bundle is copied into a slot
	PhaseProbe   Phase = "probe"   // finding out whether KVM works
	PhaseStart   Phase = "start"   // the hypervisor starts
	PhaseKernel  Phase = "kernel"  // the guest's console says something
	PhaseInit    Phase = "init"    // the guest's agent answers
	PhaseService Phase = "service" // a service changed its state
	PhaseReady   Phase = "ready"   // every service is healthy
)

// Event is a line of progress.
type Event struct {
	Phase Phase  `json:"phase"`
	Text  string `json:"text"` // for people: "postgresql: starting"
}

// Report takes events, in order, from one goroutine at a time. It may be nil.
type Report func(Event)
