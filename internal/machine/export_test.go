package machine

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// What the tests of sovereignd over fake machines use.

// OpenFake opens a state directory whose machines are fakes.
func OpenFake(state string) (*Runtime, error) {
	return Open(state, WithHypervisor(newFakeHV("quick")))
}

// Fake is a runtime over fake machines and the name of a bundle's directory.
type Fake struct {
	*Runtime
	Bundle string
	f      *fixture
	disk   os.FileInfo
}

// SetupFake makes one, with a data disk that Intact knows again.
func SetupFake(t *testing.T) *Fake {
	t.Helper()
	f := setup(t, "quick")
	return &Fake{f.Runtime, f.bundle, f, f.mark(t)}
}

// RunByOldVersion starts the bundle as a version before schema 4 did.
func (f *Fake) RunByOldVersion(t *testing.T) *Instance {
	t.Helper()
	return f.f.runByOldVersion(t)
}

// SetSoak changes that of the trials that begin from now on.
func (f *Fake) SetSoak(d time.Duration) { f.soak = d }

// WriteBundle makes a bundle whose machine behaves as mode says.
func (f *Fake) WriteBundle(t *testing.T, dir, root, mode string) {
	t.Helper()
	writeFakeBundle(t, dir, root, "fake="+mode)
}

// Intact checks the data disk and the slots.
func (f *Fake) Intact(t *testing.T) {
	t.Helper()
	f.f.intact(t, f.disk)
}

// Process is the machine's.
func (i *Instance) Process(ctx context.Context) (vm.Process, bool, error) {
	return i.running(ctx)
}

// ActiveRoot is the content of the active slot's root image.
func (i *Instance) ActiveRoot() (string, error) {
	b, err := os.ReadFile(i.slotDir(i.rec.Active) + "/root.img")
	return string(b), err
}
