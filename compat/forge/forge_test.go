// Package forge boots the bundle of recipes/forge and uses it as a small group
// would: with a browser, with git over HTTP and SSH, with git-lfs.
//
// SOVEREIGN_FORGE names the bundle's directory (make test-forge sets it);
// without it the test is skipped. SOVEREIGN_FORGE_SHOTS is a directory for
// pictures of the pages.
package forge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// bootDeadline is for a first boot under emulation on a busy machine.
const bootDeadline = 10 * time.Minute

const password = "correct horse battery staple"

func TestForge(t *testing.T) {
	m := newMachine(t)
	m.boot(t)
	b := newBrowser(t, m)

	b.page(t, "/user/sign_up", "registration is closed", text("main, [role=main]", "Registration is disabled"))
	first := m.account(t, "ada")
	b.page(t, "/user/login", "sign in", write("#user_name", "ada"), write("#password", first), press("form button.primary"),
		// The first password is for once.
		text("h4", "Update Password"), write("#password", password), write("#retype", password), press("form button.primary"),
		text(".page-content.dashboard", "ada"))

	g := m.git(t)
	b.page(t, "/user/settings/keys", "ssh key", press("#add-ssh-button"), write("#ssh-key-title", "laptop"),
		write("#ssh-key-content", g.publicKey(t)), press("#add-ssh-key-panel button.primary"), text("#keys-ssh", "laptop"))
	b.page(t, "/repo/create", "new repository", write("#repo_name", "work"), press("input[name=auto_init]"),
		press(".new-repo-form button.primary"), text("#readme", "work"))

	if !t.Run("http", func(t *testing.T) {
		g.run(t, "clone", m.http("ada", "work"), "work")
		g.write(t, "work/hello.go", "package main\n\n// Greets.\nfunc main() { println(\"hello\") }\n")
		g.in(t, "work", "add", ".")
		g.in(t, "work", "commit", "-m", "Greet")
		g.in(t, "work", "push", "origin", "main")
		b.page(t, "/ada/work/src/branch/main/hello.go", "file", text(".file-view.code-view", "println"))
	}) {
		t.FailNow()
	}
	t.Run("ssh", func(t *testing.T) {
		g.run(t, "clone", m.ssh("ada", "work"), "by-ssh")
		g.write(t, "by-ssh/more.txt", "more\n")
		g.in(t, "by-ssh", "checkout", "-b", "more")
		g.in(t, "by-ssh", "add", ".")
		g.in(t, "by-ssh", "commit", "-m", "More")
		// What Gitea's hook says shows that it ran.
		if said := g.in(t, "by-ssh", "push", "origin", "more"); !strings.Contains(said, "Create a new pull request") {
			t.Errorf("push over ssh said %q", said)
		}
	})
	t.Run("issue", func(t *testing.T) {
		b.page(t, "/ada/work/issues/new", "issue", write("#issue_title", "It greets nobody"),
			write("textarea[name=content]", "Who is **there**?"), press("#new-issue button.primary"),
			text(".comment-body strong", "there"))
	})
	t.Run("pull request", func(t *testing.T) {
		b.page(t, "/ada/work/compare/main...more?expand=1", "pull request", write("#issue_title", "More of it"),
			press("#new-issue button.primary"), text("h1", "More of it"))
		b.page(t, "/ada/work/pulls/2/files", "diff", text(".diff-file-box", "more"))
		b.page(t, "/ada/work/pulls/2", "merge", press(".merge-button > button.ui.button"), press("button[name=do]"), text(".issue-state-label", "Merged"))
		b.page(t, "/ada/work/src/branch/main/more.txt", "merged file", text(".file-view", "more"))
	})
	t.Run("lfs", func(t *testing.T) {
		big := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
		g.in(t, "work", "pull")
		g.in(t, "work", "lfs", "install", "--local")
		g.in(t, "work", "lfs", "track", "*.bin")
		g.write(t, "work/big.bin", string(big))
		g.in(t, "work", "add", ".")
		g.in(t, "work", "commit", "-m", "Big")
		g.in(t, "work", "push", "origin", "main")
		g.run(t, "lfs", "install") // for this person, as after an installation
		g.run(t, "clone", m.http("ada", "work"), "by-lfs")
		if got, err := os.ReadFile(filepath.Join(g.dir, "by-lfs/big.bin")); err != nil || !bytes.Equal(got, big) {
			t.Errorf("the file came back with %d bytes, %v", len(got), err)
		}
		if out := m.exec(t, "find", "/data/gitea/lfs", "-type", "f"); strings.Count(out, "\n") != 1 {
			t.Errorf("the store of LFS has %q", out)
		}
	})
	t.Run("20 clones at once", func(t *testing.T) {
		var wg sync.WaitGroup
		began := time.Now()
		for i := range 20 {
			from := m.http("ada", "work")
			if i%2 == 0 {
				from = m.ssh("ada", "work")
			}
			wg.Go(func() {
				to := fmt.Sprintf("clone-%d", i)
				if said, err := g.try("-c", "lfs.fetchexclude=*", "clone", from, to); err != nil {
					t.Errorf("clone %d: %v: %s", i, err, said)
				} else if said, err := g.try("-C", to, "fsck"); err != nil {
					t.Errorf("clone %d: %v: %s", i, err, said)
				}
			})
		}
		wg.Wait()
		t.Logf("20 clones in %s", time.Since(began).Round(time.Millisecond))
	})
	t.Run("kills heal", func(t *testing.T) {
		for _, kill := range []struct{ service, program string }{{"gitea", "gitea"}, {"postgresql", "postgres"}} {
			m.heals(t, kill.service, kill.program)
			b.page(t, "/ada/work", "after the kill of "+kill.service, text("#readme", "work"))
		}
	})
	t.Run("every branch is there", func(t *testing.T) { m.asGitea(t, "/usr/lib/sovereign/gitea-check") })
	// Where LFS is, as SSH says it, is a setting of the owner's where no tailnet
	// has the machine's name.
	settings := filepath.Join(t.TempDir(), "settings.ini")
	if err := os.WriteFile(settings, []byte("[server]\nROOT_URL = http://"+m.web+"/\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.ok(t, "secret", "set", "forge", "gitea/settings", "--from-file", settings)
	t.Run("a restart keeps all", func(t *testing.T) {
		marks := m.asGitea(t, "/usr/lib/sovereign/gitea-check", "--marks")
		m.ok(t, "restart", "forge", "--timeout", bootDeadline.String())
		m.ports(t)
		if again := m.asGitea(t, "/usr/lib/sovereign/gitea-check", "--marks"); again != marks {
			t.Errorf("after a restart there is\n%s\nbefore\n%s", again, marks)
		}
		// Still signed in: the session is kept too.
		b.page(t, "/ada/work/issues/1", "after a restart", text(".comment-body", "Who is there?"))
		b.page(t, "/user/settings", "still signed in", text("[role=main]", "Public Profile"))
		g.run(t, "clone", m.ssh("ada", "work"), "after")
		if i, err := os.Stat(filepath.Join(g.dir, "after/big.bin")); err != nil || i.Size() != 4<<20 {
			t.Errorf("the file of LFS, over SSH: %v, %v", i, err)
		}
	})
}

// machine is the VM under test and the command line that drives it.
type machine struct {
	name       string
	bundle     string
	env        []string
	web, shell string // host and port of the pages and of SSH
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	dir := os.Getenv("SOVEREIGN_FORGE")
	if dir == "" {
		t.Skip("SOVEREIGN_FORGE names no bundle")
	}
	m := &machine{name: "forge", bundle: dir, env: append(os.Environ(), "XDG_STATE_HOME="+t.TempDir())}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := m.command(context.Background(), "logs", m.name)
			t.Logf("logs:\n%s", out[max(0, len(out)-16<<10):])
		}
		if out, err := m.command(context.Background(), "stop", m.name); err != nil {
			t.Logf("stop: %v: %s", err, out)
		}
	})
	return m
}

// command runs the command line; what it says is both of its outputs.
func (m *machine) command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "../../bin/sovereign-build", args...)
	cmd.Env = m.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (m *machine) ok(t *testing.T, args ...string) string {
	t.Helper()
	out, err := m.command(t.Context(), args...)
	if err != nil {
		t.Fatalf("sovereign-build %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

func (m *machine) exec(t *testing.T, args ...string) string {
	t.Helper()
	return m.ok(t, append([]string{"exec", m.name, "--"}, args...)...)
}

func (m *machine) asGitea(t *testing.T, args ...string) string {
	t.Helper()
	return m.ok(t, append([]string{"exec", m.name, "--user", "gitea", "--"}, args...)...)
}

func (m *machine) boot(t *testing.T) {
	t.Helper()
	m.ok(t, "run", m.bundle, "--detach", "--timeout", bootDeadline.String())
	m.ports(t)
}

// ports asks where the forge is.
func (m *machine) ports(t *testing.T) {
	t.Helper()
	for port, to := range map[string]*string{"3000": &m.web, "2222": &m.shell} {
		out := strings.TrimSpace(m.ok(t, "dsn", m.name, "--port", port))
		u, err := url.Parse(out)
		if err != nil || u.Hostname() != "127.0.0.1" {
			t.Fatalf("dsn --port %s: %q, %v", port, out, err)
		}
		*to = u.Host
	}
}

func (m *machine) http(owner, repository string) string {
	return "http://" + m.web + "/" + owner + "/" + repository + ".git"
}

func (m *machine) ssh(owner, repository string) string {
	return "ssh://git@" + m.shell + "/" + owner + "/" + repository + ".git"
}

// account makes one as the documentation says, and returns its first password.
func (m *machine) account(t *testing.T, name string) string {
	t.Helper()
	out := m.exec(t, "forge-user", "--admin", name, name+"@example.org")
	found := regexp.MustCompile(`generated random password is '(.+)'`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("forge-user printed no password: %s", out)
	}
	return found[1]
}

type service struct {
	Name     string `json:"name"`
	Healthy  bool   `json:"healthy"`
	Restarts int    `json:"restarts"`
}

func (m *machine) services(t *testing.T) map[string]service {
	t.Helper()
	out := m.ok(t, "status", m.name, "--json")
	var s struct {
		Machines []struct{ Services []service }
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil || len(s.Machines) != 1 {
		t.Fatalf("%v: %s", err, out)
	}
	all := map[string]service{}
	for _, v := range s.Machines[0].Services {
		all[v.Name] = v
	}
	return all
}

// heals kills a program of a service and waits until the service has started
// anew and all is healthy.
func (m *machine) heals(t *testing.T, name, program string) {
	t.Helper()
	before := m.services(t)[name].Restarts
	m.exec(t, "killall", "-9", program)
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	for {
		all := m.services(t)
		if all[name].Restarts > before && all["gitea"].Healthy && all["postgresql"].Healthy {
			t.Logf("%s was killed and is healthy after %s", name, time.Since(began).Round(time.Second))
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s does not heal: %+v", name, all)
		case <-time.After(time.Second):
		}
	}
}

// git is a client of one person's.
type git struct {
	dir, home string
	env       []string
}

func (m *machine) git(t *testing.T) *git {
	t.Helper()
	dir := t.TempDir()
	home := t.TempDir()
	g := &git{dir: dir, home: home, env: append(os.Environ(),
		"HOME="+home, "GIT_TERMINAL_PROMPT=0",
		"GIT_SSH_COMMAND=ssh -i "+home+"/key -o IdentitiesOnly=yes -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile="+home+"/known_hosts",
	)}
	config := "[user]\n\tname = Ada\n\temail = ada@example.org\n[init]\n\tdefaultBranch = main\n[credential]\n\thelper = store\n"
	credentials := "http://" + url.UserPassword("ada", password).String() + "@" + m.web + "\n"
	if err := errors.Join(
		os.WriteFile(filepath.Join(home, ".gitconfig"), []byte(config), 0o600),
		os.WriteFile(filepath.Join(home, ".git-credentials"), []byte(credentials), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ada", "-f", filepath.Join(home, "key")).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	return g
}

func (g *git) publicKey(t *testing.T) string {
	t.Helper()
	key, err := os.ReadFile(filepath.Join(g.home, "key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(key))
}

func (g *git) try(args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env = g.dir, g.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (g *git) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := g.try(args...)
	if err != nil {
		t.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// in runs git in a clone.
func (g *git) in(t *testing.T, clone string, args ...string) string {
	t.Helper()
	return g.run(t, append([]string{"-C", clone}, args...)...)
}

func (g *git) write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}
