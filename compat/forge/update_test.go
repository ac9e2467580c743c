package forge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUpdate takes a forge from the version before to the recipe's, whose
// migrations change the database, and back with its data. Both keep a
// repository, and what went into it in between is gone again after.
//
// SOVEREIGN_FORGE_OLD=1 has the version before compiled, which takes minutes;
// without it the test is skipped.
func TestUpdate(t *testing.T) {
	m := newMachine(t)
	if os.Getenv("SOVEREIGN_FORGE_OLD") == "" {
		t.Skip("SOVEREIGN_FORGE_OLD is not set")
	}
	old := buildOld(t, filepath.Base(m.bundle))
	m.ok(t, "up", old, "--timeout", bootDeadline.String())
	m.ports(t)
	first := m.version(t)
	if !strings.HasPrefix(first, "1.26.") {
		t.Fatalf("the version before is %q", first)
	}
	token := m.token(t, "ada")
	m.post(t, token, "/user/repos", `{"name": "work", "auto_init": true, "default_branch": "main"}`)
	m.post(t, token, "/repos/ada/work/issues", `{"title": "Before"}`)
	g := m.git(t)
	from := "http://ada:" + token + "@" + m.web + "/ada/work.git"
	g.run(t, "clone", from, "work")
	g.write(t, "work/before.txt", "before\n")
	g.in(t, "work", "add", ".")
	g.in(t, "work", "commit", "-m", "Before")
	g.in(t, "work", "push", "origin", "main")

	m.ok(t, "update", "forge", m.bundle, "--snapshot", "--timeout", bootDeadline.String())
	m.ports(t)
	if now := m.version(t); now == first {
		t.Fatalf("after the update it is still %s", now)
	}
	m.asGitea(t, "/usr/lib/sovereign/gitea-check")
	from = "http://ada:" + token + "@" + m.web + "/ada/work.git"
	g.run(t, "clone", from, "after")
	if said := g.in(t, "after", "log", "--format=%s", "-1"); strings.TrimSpace(said) != "Before" {
		t.Errorf("the newest commit after the update is %q", said)
	}
	m.post(t, token, "/repos/ada/work/issues", `{"title": "After"}`)
	g.write(t, "after/after.txt", "after\n")
	g.in(t, "after", "add", ".")
	g.in(t, "after", "commit", "-m", "After")
	g.in(t, "after", "push", "origin", "main")

	m.ok(t, "rollback", "forge", "--with-data", "--yes", "--timeout", bootDeadline.String())
	m.ports(t)
	if now := m.version(t); now != first {
		t.Errorf("after going back it is %s, not %s", now, first)
	}
	m.asGitea(t, "/usr/lib/sovereign/gitea-check")
	from = "http://ada:" + token + "@" + m.web + "/ada/work.git"
	g.run(t, "clone", from, "back")
	if said := g.in(t, "back", "log", "--format=%s", "-1"); strings.TrimSpace(said) != "Before" {
		t.Errorf("the newest commit after going back is %q", said)
	}
	if titles := m.issues(t, token); fmt.Sprint(titles) != "[Before]" {
		t.Errorf("after going back there are the issues %q", titles)
	}
}

// buildOld makes the bundle of the version before, of the recipe with another
// port.
func buildOld(t *testing.T, bundle string) string {
	t.Helper()
	dir := t.TempDir()
	recipes := filepath.Join(dir, "recipes")
	if err := os.CopyFS(recipes, os.DirFS("../../recipes")); err != nil {
		t.Fatal(err)
	}
	port := filepath.Join(recipes, "ports", "gitea")
	for _, p := range []string{port, port + "-web"} {
		if err := os.RemoveAll(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(port, os.DirFS("testdata/gitea-1.26")); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "old")
	cmd := exec.Command("../../bin/sovereign-build", "build", filepath.Join(recipes, "forge"), "--arch", bundle[strings.LastIndex(bundle, "-")+1:],
		"--relock-missing", "--progress", "plain", "-o", out)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	return filepath.Join(out, bundle)
}

// token makes an account, and a token with which the API takes its owner.
func (m *machine) token(t *testing.T, name string) string {
	t.Helper()
	m.asGitea(t, "gitea", "admin", "user", "create", "--admin", "--username", name, "--email", name+"@example.org",
		"--random-password", "--must-change-password=false")
	said := strings.TrimSpace(m.asGitea(t, "gitea", "admin", "user", "generate-access-token", "--username", name, "--scopes", "all", "--raw"))
	return said[strings.LastIndexAny(said, "\n ")+1:]
}

func (m *machine) version(t *testing.T) string {
	t.Helper()
	var v struct{ Version string }
	m.get(t, "", "/version", &v)
	return v.Version
}

func (m *machine) issues(t *testing.T, token string) (titles []string) {
	t.Helper()
	var all []struct{ Title string }
	m.get(t, token, "/repos/ada/work/issues", &all)
	for _, i := range all {
		titles = append(titles, i.Title)
	}
	return titles
}

func (m *machine) get(t *testing.T, token, path string, into any) {
	t.Helper()
	if err := json.Unmarshal(m.ask(t, http.MethodGet, token, path, ""), into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func (m *machine) post(t *testing.T, token, path, body string) {
	t.Helper()
	m.ask(t, http.MethodPost, token, path, body)
}

func (m *machine) ask(t *testing.T, method, token, path, body string) []byte {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+m.web+"/api/v1"+path, bytes.NewBufferString(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "token "+token)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s, %v: %s", method, path, answer.Status, err, text)
	}
	return text
}
