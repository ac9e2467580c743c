package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/runtime"
)

func TestDeploy(t *testing.T) {
	dir := newBundle(t)
	f := &fake{}
	code, out, errs := call(t, t.Context(), f, "deploy", dir, "--memory", "1GiB", "--outbound")
	if code != 0 || !strings.HasPrefix(out, "sql runs sha256:") || strings.Join(f.calls, ",") != "install" {
		t.Errorf("exit %d, %q, %q, %v", code, out, errs, f.calls)
	}
	if o := f.up; o.MemoryMiB != 1024 || o.Outbound == nil || !*o.Outbound || o.Bounce != nil || o.Accel != "" || o.Restart != runtime.RestartAlways {
		t.Errorf("%+v", o)
	}

	// Where there is one it is updated, and what it was told is kept.
	installed := func(result, why string) *fake {
		f := &fake{fakeHost: fakeHost{result: result, why: why}}
		s := f.readyStatus()
		s.Supervision.Active, s.Supervision.Slots = "a", map[runtime.SlotName]runtime.Slot{"a": {Digest: "sha256:111111111111aa"}}
		f.statuses = []runtime.Status{s}
		return f
	}
	f = installed(runtime.UpdateCommitted, "")
	code, out, errs = call(t, t.Context(), f, "deploy", dir, "--json", "--timeout", "2m")
	var got Deployed
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 {
		t.Fatalf("exit %d, %v, %q, %q", code, err, out, errs)
	}
	if got.Device != "local" || got.Sovereignd != "" || got.Kind != "update" || got.Result != runtime.UpdateCommitted || got.Name != "sql" || got.Ports["5432"] != 40001 {
		t.Errorf("%+v", got)
	}
	if calls := strings.Join(f.calls, ","); calls != "up,update sql 2m0s" || f.up.MemoryMiB != 0 {
		t.Errorf("%s, %+v", calls, f.up)
	}
	f = installed(runtime.UpdateReverted, "it is ill")
	if code, out, _ = call(t, t.Context(), f, "deploy", dir); code != 8 || !strings.Contains(out, "runs sha256:111111111111 again") || !strings.Contains(out, "it is ill") {
		t.Errorf("exit %d, %q", code, out)
	}

	f = installed("", "")
	code, out, errs = call(t, t.Context(), f, "deploy", dir, "--dry-run")
	if code != 0 || !strings.Contains(out, "sql would be updated, from sha256:111111111111 to sha256:") || !strings.Contains(out, "is there") || !strings.Contains(out, "0.0 MiB of") || f.calls != nil {
		t.Errorf("exit %d, %q, %q, %v", code, out, errs, f.calls)
	}
	code, out, _ = call(t, t.Context(), f, "deploy", dir, "--dry-run", "--json")
	var plan DeployPlan
	if err := json.Unmarshal([]byte(out), &plan); err != nil || code != 0 || plan.Kind != "update" || plan.From != "sha256:111111111111aa" || len(plan.Transfer.Files) == 0 || plan.Transfer.Bytes != 0 {
		t.Errorf("exit %d, %v, %q", code, err, out)
	}
}

// A recipe is built for the device's architecture, which that says itself.
func TestDeployRecipe(t *testing.T) {
	recipe := t.TempDir()
	if err := os.WriteFile(filepath.Join(recipe, "recipe.yaml"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	writeBundle(t, "dist/sql-amd64") // as the fake says
	f := &fake{}
	code, out, errs := call(t, t.Context(), f, "deploy", recipe, "--device", "exec:cat")
	if code != 0 || strings.Join(f.calls, ",") != "build,install" {
		t.Errorf("exit %d, %q, %q, %v", code, out, errs, f.calls)
	}
	if r := f.build; r.Recipe != recipe || r.Arch != "arm64" || r.Output != "dist" {
		t.Errorf("%+v", r)
	}
}

// A wrong operand is found out before anything is done.
func TestDeployOperand(t *testing.T) {
	empty := t.TempDir()
	for operand, want := range map[string]string{
		empty:           "neither a bundle nor a recipe here",
		"/nowhere/here": "neither a bundle nor a recipe here",
		"nothing":       "there is no bundle dist/nothing-",
	} {
		f := &fake{}
		if code, _, errs := call(t, t.Context(), f, "deploy", operand); code != 2 || !strings.Contains(errs, want) || f.calls != nil {
			t.Errorf("%s: exit %d, %q, %v", operand, code, errs, f.calls)
		}
	}
	if code, _, errs := call(t, t.Context(), &fake{}, "deploy", newBundle(t), "--timeout", "1ms"); code != 2 || !strings.Contains(errs, "--timeout 1ms") {
		t.Errorf("exit %d, %q", code, errs)
	}
}

func TestNewer(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"v0.4.0", "v0.3.9", true}, {"v0.3.0", "v0.3.0", false}, {"v0.3.0", "v0.4.0", false},
		{"(devel)", "v0.1.0", false}, {"v0.1.0", "(devel)", false}, {"", "", false},
		{"v0.4.1-0.20261130120000-abcdefabcdef", "v0.4.1-0.20261129120000-abcdefabcdef+dirty", true},
	} {
		if newer(c.a, c.b) != c.want {
			t.Errorf("%s, %s", c.a, c.b)
		}
	}
}

// What cobra itself finds wrong with flags is an error of usage like any other.
func TestFlagGroups(t *testing.T) {
	for _, args := range []string{"build recipes/sql --dry-run --check-sums", "build recipes/sql --dry-run --write-sums"} {
		f := &fake{}
		code, out, errs := call(t, t.Context(), f, strings.Fields(args+" --json")...)
		if code != 2 || !strings.Contains(out, `"class":"usage"`) || !strings.Contains(out, "none of the others can be") || f.calls != nil {
			t.Errorf("%s: exit %d, %q, %q, %v", args, code, out, errs, f.calls)
		}
	}
}
