package supervise

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

func TestSecretsChange(t *testing.T) {
	dir := t.TempDir()
	withReload := svc("db", forever, func(s *spec.Service) {
		s.Secrets = []spec.Secret{{Name: "password", Bytes: 16}, {Name: "key", Given: true}}
		s.Reload = []string{"/bin/sh", "-c", "[ ! -e " + dir + "/refuse ] || { echo no more; exit 1; }; cat $SOVEREIGN_SECRETS/password >> " + dir + "/seen"}
	})
	plain := svc("vpn", `cat $SOVEREIGN_SECRETS/key; exec sleep 1000`, func(s *spec.Service) { s.Secrets = []spec.Secret{{Name: "key", Given: true}} })
	r := start(t, "", withReload, plain)
	r.state(agent.StateReady)
	ctx := t.Context()
	if _, err := r.Secret("db", "key"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "not handed over") {
		t.Errorf("a secret nobody gave: %v", err)
	}
	first, err := r.Secret("db", "password")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.RotateSecret(ctx, "db", "password"); err != nil {
		t.Fatal(err)
	}
	second, err := r.Secret("db", "password")
	if err != nil || second == first || len(second) != len(first) {
		t.Errorf("rotated: %q, %v", second, err)
	}
	if b, err := os.ReadFile(dir + "/seen"); err != nil || string(b) != second {
		t.Errorf("reloaded with %q, %v", b, err)
	}
	// A reload that fails puts the old value back.
	if err := os.WriteFile(dir+"/refuse", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.SetSecret(ctx, "db", "password", "mine"); err == nil || !strings.Contains(err.Error(), "no more") {
		t.Errorf("refused: %v", err)
	}
	if v, err := r.Secret("db", "password"); err != nil || v != second {
		t.Errorf("after a refusal: %q, %v", v, err)
	}
	if s := r.Services()[0]; s.Restarts != 0 {
		t.Errorf("restarted: %+v", s)
	}
	// Without a reload command the service is restarted.
	if err := r.SetSecret(ctx, "vpn", "key", "tskey-1"); err != nil {
		t.Fatal(err)
	}
	r.until("restart", func() bool { s := r.Services()[1]; return s.Restarts == 1 && s.Healthy })
	r.until("the key", func() bool { return strings.Contains(r.text("vpn"), "tskey-1") })
	if i, err := os.Stat(filepath.Join(r.data, "secrets/vpn/key")); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", i, err)
	}
	for _, c := range []struct{ service, name string }{{"vpn", "nope"}, {"nope", "key"}} {
		if err := r.SetSecret(ctx, c.service, c.name, "x"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v: %v", c, err)
		}
	}
	if err := r.RotateSecret(ctx, "vpn", "key"); !errors.Is(err, os.ErrInvalid) {
		t.Errorf("a given secret was rotated: %v", err)
	}
}

// The power may go between the writing of a secret and the reload.
func TestReloadIsMadeUpFor(t *testing.T) {
	dir := t.TempDir()
	v := svc("db", "echo up; exec sleep 1000", func(s *spec.Service) {
		s.Secrets = []spec.Secret{{Name: "password", Bytes: 16}}
		s.Reload = []string{"/bin/sh", "-c", "echo x >> " + dir + "/reloads"}
	})
	r := start(t, "", v)
	r.state(agent.StateReady)
	if err := r.byName["db"].markReload(); err != nil {
		t.Fatal(err)
	}
	if err := r.Restart(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	r.until("reload", func() bool { _, err := os.Stat(dir + "/reloads"); return err == nil && !r.byName["db"].pendingReload() })
}

func TestRestartOnRequest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ok")
	r := start(t, "", svc("good", forever), svc("bad", "[ -e "+file+" ] || exit 3; exec sleep 1000"))
	r.until("good runs", func() bool { return r.Services()[0].Healthy })
	pid := r.Services()[0].PID
	if err := r.Restart(t.Context(), "good"); err != nil {
		t.Fatal(err)
	}
	r.until("restart", func() bool { s := r.Services()[0]; return s.Healthy && s.PID != pid && s.Restarts == 1 })
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.Restart(t.Context(), "bad"); err != nil { // ends its pause
		t.Fatal(err)
	}
	r.state(agent.StateReady)
	if err := r.Restart(t.Context(), "nope"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("unknown service: %v", err)
	}
	r.stop()
	if err := r.Restart(t.Context(), "good"); err == nil || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("after the end: %v", err)
	}
}

func TestWarning(t *testing.T) {
	file := filepath.Join(t.TempDir(), "warning")
	if err := os.WriteFile(file, []byte("collation version mismatch\nsecond line\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := start(t, "", svc("db", forever, health("echo noise >&2; cat "+file)))
	r.state(agent.StateReady)
	if s := r.Services()[0]; s.Warning != "collation version mismatch" || s.Message != s.Warning || !s.Healthy {
		t.Errorf("got %+v", s)
	}
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r.until("no warning", func() bool { s := r.Services()[0]; return s.Warning == "" && s.Message == "" && s.Healthy })
}

func TestOptionalService(t *testing.T) {
	r := start(t, "", svc("db", forever), svc("vpn", "exit 1", func(s *spec.Service) { s.Optional = true }))
	r.until("a crash loop", func() bool { return strings.Contains(r.Services()[1].Message, "times in a row") })
	if state, msg := r.State(); state != agent.StateReady {
		t.Errorf("got %s, %s", state, msg)
	}
	if !r.Services()[1].Optional {
		t.Error("the status does not say that it is optional")
	}
}

func TestOutOfMemory(t *testing.T) {
	root := cgroups(t)
	if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+memory"), 0); err != nil {
		t.Skipf("no memory control here: %v", err)
	}
	r := start(t, root, svc("eater", "exec tail /dev/zero", func(s *spec.Service) { s.Limits.MemoryMiB = 16 }), svc("other", forever))
	r.until("out of memory", func() bool {
		return strings.Contains(r.Services()[0].Message, "killed (signal 9): out of memory (its limit is 16 MiB)")
	})
	r.until("the other", func() bool { return r.Services()[1].Healthy })
	if s := r.Services()[1]; s.Restarts != 0 {
		t.Errorf("the other was hit: %+v", s)
	}
}
