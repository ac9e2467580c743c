package services

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
	if _, err := r.Secret(t.Context(), "db", "key"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "not handed over") {
		t.Errorf("a secret nobody gave: %v", err)
	}
	first, err := r.Secret(t.Context(), "db", "password")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.RotateSecret(ctx, "db", "password"); err != nil {
		t.Fatal(err)
	}
	second, err := r.Secret(t.Context(), "db", "password")
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
	if err := os.Remove(dir + "/refuse"); err != nil {
		t.Fatal(err)
	}
	r.until("the old value", func() bool { v, err := r.Secret(ctx, "db", "password"); return err == nil && v == second })
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

// server is a service with state on the data disk that goes by what its reload
// command told it, which is refused as long as there is a file "refuse".
func server(dir string) (spec.Service, func(*Options)) {
	v := svc("db", forever, health("true"), func(s *spec.Service) {
		s.Secrets = []spec.Secret{{Name: "password", Bytes: 16}}
		s.Setup = [][]string{{"/bin/sh", "-c", "[ -e " + dir + "/password ] || cat $SOVEREIGN_SECRETS/password > " + dir + "/password"}}
		s.Reload = []string{"/bin/sh", "-c", "echo x >> " + dir + "/reloads; [ ! -e " + dir + "/refuse ] || { echo the disk is full; exit 1; }; " +
			"cat $SOVEREIGN_SECRETS/password > " + dir + "/password; [ \"$(cat " + dir + "/password)\" != half ] || { echo half; exit 1; }"}
	})
	return v, func(o *Options) {
		o.Spec.Services[0].Directories = []spec.Directory{{Path: o.Spec.Data.Mount + "/db", Mode: "0700"}}
	}
}

// goesBy fails unless the server goes by the password that the guest gives out.
func (r *running) goesBy(dir string) string {
	r.t.Helper()
	given, err := r.Secret(r.t.Context(), "db", "password")
	if err != nil {
		r.t.Fatal(err)
	}
	if b, err := os.ReadFile(dir + "/password"); err != nil || string(b) != given {
		r.t.Errorf("the server goes by %q, %v, and %q is given out", b, err, given)
	}
	return given
}

// A reload that is due and fails is tried again at the health interval, and
// nobody gets a value that the service does not know.
func TestReloadThatFails(t *testing.T) {
	t.Run("with health checks", func(t *testing.T) { reloadThatFails(t, func(*spec.Service) {}) })
	t.Run("without", func(t *testing.T) {
		reloadThatFails(t, func(s *spec.Service) { s.Health = spec.Health{IntervalSeconds: 1} })
	})
}

func reloadThatFails(t *testing.T, of func(*spec.Service)) {
	dir := t.TempDir()
	v, change := server(dir)
	of(&v)
	r := startWith(t, "", change, v)
	r.state(agent.StateReady)
	if err := os.WriteFile(dir+"/refuse", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.byName["db"].markReload(); err != nil {
		t.Fatal(err)
	}
	if err := r.Restart(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	const reason = "the disk is full"
	r.until("a warning", func() bool {
		s := r.Services()[0]
		return s.Healthy && strings.Contains(s.Warning, reason) && s.Message == s.Warning
	})
	if _, err := r.Secret(t.Context(), "db", "password"); err == nil || !strings.Contains(err.Error(), reason) {
		t.Errorf("while it fails: %v", err)
	}
	r.until("more tries", func() bool { b, err := os.ReadFile(dir + "/reloads"); return err == nil && len(b) > 3*len("x\n") })
	if err := os.Remove(dir + "/refuse"); err != nil {
		t.Fatal(err)
	}
	r.until("the end of the warning", func() bool { s := r.Services()[0]; return s.Healthy && s.Warning == "" && s.Message == "" })
	r.goesBy(dir)
	if s := r.Services()[0]; s.Restarts != 1 {
		t.Errorf("%d restarts: a reload is no reason for one", s.Restarts)
	}
}

// Whose secret's file is lost gets a new one, and a service that knows another
// is told.
func TestLostSecret(t *testing.T) {
	dir := t.TempDir()
	v, change := server(dir)
	r := startWith(t, "", change, v)
	r.state(agent.StateReady)
	first := r.goesBy(dir)
	if _, err := os.Stat(dir + "/reloads"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the first start has a reload: %v", err)
	}
	for _, lose := range []func(string) error{os.Remove, func(path string) error { return os.Truncate(path, 0) }, func(path string) error { return os.RemoveAll(filepath.Dir(path)) }} {
		if err := lose(filepath.Join(r.data, "secrets/db/password")); err != nil {
			t.Fatal(err)
		}
		restarts := r.Services()[0].Restarts
		if err := r.Restart(t.Context(), "db"); err != nil {
			t.Fatal(err)
		}
		// Healthy is only said when the server has been told.
		r.until("a restart", func() bool { s := r.Services()[0]; return s.Healthy && s.Restarts > restarts })
		second := r.goesBy(dir)
		if second == first {
			t.Error("the secret is the former one")
		}
		first = second
	}
}

// A command that fails may have given the service the new value all the same.
func TestFailedChangeIsTakenBack(t *testing.T) {
	dir := t.TempDir()
	v, change := server(dir)
	r := startWith(t, "", change, v)
	r.state(agent.StateReady)
	before := r.goesBy(dir)
	if err := r.SetSecret(t.Context(), "db", "password", "half"); err == nil || !strings.Contains(err.Error(), "half") {
		t.Errorf("got %v", err)
	}
	if after := r.goesBy(dir); after != before {
		t.Errorf("the value is %q now", after)
	}
	// Nor does a failed change end one that is pending.
	if err := os.WriteFile(dir+"/refuse", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.byName["db"].markReload(); err != nil {
		t.Fatal(err)
	}
	if err := r.SetSecret(t.Context(), "db", "password", "other"); err == nil {
		t.Error("refused, and no error")
	}
	if v, err := r.Secret(t.Context(), "db", "password"); err == nil {
		t.Errorf("given out: %q", v)
	}
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
