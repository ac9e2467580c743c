package runtime_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/machine/machinetest"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

// One call for whatever is there: nothing, another bundle, the same one, a
// machine that is down, and a bundle that does not become healthy.
func TestDeploy(t *testing.T) {
	f := setup(t)
	ctx := deadline(t)
	two := f.bundleOf(t, "two", "quick")

	first, err := runtime.PlanFirst(f.bundle, "")
	if err != nil || first.Kind != "install" || first.Name != "sql" || first.Transfer.Bytes != first.Transfer.Size || first.Transfer.Size == 0 {
		t.Fatalf("%+v, %v", first, err)
	}
	p, err := f.PlanDeploy(ctx, f.bundle, "")
	if err != nil || p.Kind != "install" || p.From != "" || p.Transfer.Bytes != p.Transfer.Size || p.Transfer.Free == 0 || p.Transfer.Digest != first.Transfer.Digest {
		t.Fatalf("%+v, %v", p, err)
	}
	if all, err := f.Machines(ctx); err != nil || len(all) != 0 {
		t.Fatalf("a plan has made %v, %v", all, err)
	}

	r, err := f.Deploy(ctx, f.bundle, "", runtime.UpOptions{MemoryMiB: 256}, 0, nil)
	if err != nil || r.Kind != "install" || r.Result != runtime.UpdateInstalled || r.To != p.Transfer.Digest || r.Status.Machine.MemoryMiB != 256 || r.Seconds == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	pid := r.Status.PID
	r, err = f.Deploy(ctx, f.bundle, "", runtime.UpOptions{}, 0, nil)
	if err != nil || r.Result != runtime.UpdateUnchanged || r.Status.PID != pid {
		t.Fatalf("the same again: %+v, %v", r, err)
	}

	p, err = f.PlanDeploy(ctx, two, "")
	if err != nil || p.Kind != "update" || p.From != first.Transfer.Digest || p.Wanted != runtime.Up || p.Transfer.Bytes != p.Transfer.Size {
		t.Fatalf("%+v, %v", p, err)
	}
	r, err = f.Deploy(ctx, two, "", runtime.UpOptions{MemoryMiB: 512}, 0, nil)
	if err != nil || r.Result != runtime.UpdateCommitted || r.To != p.Transfer.Digest || r.From != p.From || r.Status.Machine.MemoryMiB != 512 {
		t.Fatalf("%+v, %v", r, err)
	}

	// One that is down comes up with the new one, and never with the old.
	m := f.Machine("sql")
	if _, err := m.Down(ctx, 0); err != nil {
		t.Fatal(err)
	}
	three := f.bundleOf(t, "three", "quick")
	r, err = f.Deploy(ctx, three, "", runtime.UpOptions{}, 0, nil)
	if err != nil || r.Result != runtime.UpdateCommitted || r.Status.State != runtime.Running || r.Status.Supervision.Ends.Total != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := m.Down(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if r, err = f.Deploy(ctx, three, "", runtime.UpOptions{}, 0, nil); err != nil || r.Result != runtime.UpdateUnchanged || r.Status.State != runtime.Running {
		t.Fatalf("the same, that was down: %+v, %v", r, err)
	}

	// One that is bad goes back by itself.
	bad := f.bundleOf(t, "bad", "sick")
	r, err = f.Deploy(ctx, bad, "", runtime.UpOptions{}, 2*time.Second, nil)
	if err != nil || r.Result != runtime.UpdateReverted || r.Why == "" || r.Status.State != runtime.Running {
		t.Fatalf("%+v, %v", r, err)
	}
	if v := r.Status.Supervision; v.Slots[v.Active].Source != three {
		t.Errorf("%+v", v)
	}
}

// A host that has no room for all of a bundle gets nothing of it.
func TestDeployWithoutRoom(t *testing.T) {
	f := setup(t)
	ctx := deadline(t)
	big := f.bundle + "-big"
	machinetest.WriteBundle(t, big, "big", "fake=quick")
	m, err := bundle.Load(big)
	if err != nil {
		t.Fatal(err)
	}
	info, err := f.Info(ctx)
	if err != nil || info.Free == 0 {
		t.Fatalf("%+v, %v", info, err)
	}
	for n := range m.Artifacts {
		if a := &m.Artifacts[n]; a.Role == bundle.RoleRoot {
			a.Size = info.Free // and a sparse file, that takes no room here
			if err := os.Truncate(filepath.Join(big, a.File), a.Size); err != nil {
				t.Fatal(err)
			}
		}
	}
	text, err := bundle.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(big, bundle.ManifestFile), text, 0o644); err != nil {
		t.Fatal(err)
	}
	for what, deploy := range map[string]func() error{
		"plan":   func() error { _, err := f.PlanDeploy(ctx, big, ""); return err },
		"deploy": func() error { _, err := f.Deploy(ctx, big, "", runtime.UpOptions{}, 0, nil); return err },
	} {
		if err := deploy(); fault.ClassOf(err) != fault.Environment || !strings.Contains(err.Error(), "no room for the bundle") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if entries, err := os.ReadDir(filepath.Join(f.dir, "blobs")); err != nil || len(entries) != 0 {
		t.Errorf("sent: %v, %v", entries, err)
	}
}

// After a small change only what is new of an image travels, and the plan says
// so before; over a host that cannot take chunks, all of it.
func TestDeployChunks(t *testing.T) {
	f := setup(t)
	ctx := deadline(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	image := make([]byte, 4<<20)
	for i := range image {
		image[i] = byte(rnd.Uint32())
	}
	write := func(dir string, image []byte) {
		t.Helper()
		if err := machinetest.MakeBundleOf(ctx, dir, image, "fake=quick"); err != nil {
			t.Fatal(err)
		}
	}
	one, two := f.bundle+"-one", f.bundle+"-two"
	write(one, image)
	write(two, slices.Concat(image[:1<<20], []byte("what is new in it"), image[1<<20:]))
	if _, err := f.Deploy(ctx, one, "", runtime.UpOptions{}, 0, nil); err != nil {
		t.Fatal(err)
	}
	p, err := f.PlanDeploy(ctx, two, "")
	if err != nil || p.Transfer.Bytes == 0 || p.Transfer.Bytes > p.Transfer.Size/20 {
		t.Fatalf("%+v, %v", p, err)
	}
	r, err := f.Deploy(ctx, two, "", runtime.UpOptions{}, 0, nil)
	if err != nil || r.Result != runtime.UpdateCommitted {
		t.Fatalf("%+v, %v", r, err)
	}
	v := r.Status.Supervision
	if err := bundle.Verify(ctx, filepath.Join(f.dir, "instances", "sql", "slots", string(v.Active))); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(filepath.Join(f.dir, "blobs")); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}
