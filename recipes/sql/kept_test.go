package sql

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/proc"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/services"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// kept runs the server as the guest does, with the scripts, the secret
// and the certificate of the recipe. Until it has ended, which stop waits for,
// this process starts no other program: its end would be the manager's.
func (s *server) kept() (manager *services.Manager, stop func()) {
	s.t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		s.t.Fatal(err)
	}
	procs, err := proc.New()
	if err != nil {
		s.t.Fatal(err)
	}
	lib := func(name string) string { return filepath.Join(s.dir, "lib", name) }
	environment := map[string]string{}
	for _, kv := range s.command("none").Env {
		name, value, _ := strings.Cut(kv, "=")
		environment[name] = value
	}
	manager, err = services.New(services.Options{
		Procs: procs,
		Spec: spec.Spec{Schema: 1, Name: "sql", Data: spec.Data{FileSystem: "ext4", Mount: s.dir}, Services: []spec.Service{{
			Name: "postgresql", User: "postgres", Environment: environment,
			Directories:  []spec.Directory{{Path: s.dir + "/data", Mode: "0700"}},
			Secrets:      []spec.Secret{{Name: "password", Bytes: 32}},
			Certificates: []spec.Certificate{{Name: "server", Hosts: []string{"localhost", "127.0.0.1"}}},
			Setup:        [][]string{{lib("postgresql-setup"), s.cluster, s.run + "/machine.conf"}},
			Command:      []string{s.programs + "/postgres", "-D", s.cluster},
			Reload:       []string{lib("postgresql-reload"), s.cluster},
			Stop:         spec.Stop{Signal: "INT", Seconds: 60},
			Health: spec.Health{Command: []string{lib("postgresql-health"), s.cluster}, Starting: []int{1},
				IntervalSeconds: 1, TimeoutSeconds: 10, Failures: 30},
		}}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); manager.Run(ctx) }()
	stop = func() {
		cancel()
		<-done
		if err := procs.Close(); err != nil {
			s.t.Error(err)
		}
	}
	return manager, stop
}

// until waits for a state of the one service.
func (s *server) until(manager *services.Manager, what string, ok func(agent.Service) bool) {
	s.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(time.Minute); !ok(manager.Services()[0]); {
		select {
		case <-tick.C:
		case <-deadline:
			s.t.Fatalf("no %s: %+v", what, manager.Services()[0])
		}
	}
}

// A password that is lost, and one that the server refuses at first, end with
// a server that knows the password which the guest gives out, over TLS with a
// certificate that proves it.
func TestLostPassword(t *testing.T) {
	s := newServer(t)
	s.healthy()
	// The server refuses to change a password for now.
	s.sql("postgres", "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
	s.stop()
	for _, name := range []string{"password", "server.crt", "server.key"} {
		if err := os.Remove(filepath.Join(s.secrets, name)); err != nil {
			t.Fatal(err)
		}
	}
	manager, stop := s.kept()
	defer stop()

	s.until(manager, "warning", func(v agent.Service) bool { return v.Healthy && strings.Contains(v.Warning, "read-only transaction") })
	if v, err := manager.Secret(t.Context(), "postgresql", "password"); err == nil || !strings.Contains(err.Error(), "read-only transaction") {
		t.Errorf("a password that the server refuses: %q, %v", v, err)
	}
	old, err := s.connect("first", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{"SET default_transaction_read_only = off", "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()"} {
		if _, err := old.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	s.until(manager, "end of the warning", func(v agent.Service) bool { return v.Healthy && v.Warning == "" })
	password, err := manager.Secret(t.Context(), "postgresql", "password")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.connect("first", nil); err == nil {
		t.Error("the former password still works")
	}
	dsn := fmt.Sprintf("postgres://postgres:%s@127.0.0.1:%d/postgres?sslmode=verify-full&sslrootcert=%s", password, s.port, filepath.Join(s.secrets, "server.crt"))
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
