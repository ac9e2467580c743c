package cve

import (
	"archive/zip"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/bundletest"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const tracker = `{
  "linux": {
    "CVE-2026-1": {"releases": {"trixie": {"status": "resolved", "fixed_version": "6.12.100-1"}}},
    "CVE-2026-2": {"releases": {"trixie": {"status": "resolved", "fixed_version": "6.12.110-1"}}},
    "CVE-2026-3": {"releases": {"trixie": {"status": "open", "urgency": "unimportant"}}},
    "CVE-2026-4": {"releases": {"trixie": {"status": "resolved", "fixed_version": "0"}}},
    "CVE-2026-5": {"releases": {"trixie": {"status": "undetermined"}}},
    "CVE-2026-6": {"releases": {"trixie": {"status": "resolved", "fixed_version": "6.12.107-2"}}}
  },
  "zlib": {"CVE-2026-7": {"releases": {"trixie": {"status": "resolved", "fixed_version": "1:1.3.dfsg+really1.3.1-1"}}}},
  "nginx": {"CVE-2026-8": {"releases": {"trixie": {"status": "open"}}}}
}`

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func statuses(r *Report) map[string]Status {
	out := map[string]Status{}
	for _, f := range r.Findings {
		out[f.ID] = f.Status
	}
	return out
}

func TestTracker(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sql")
	bundletest.Make(t, dir, bundletest.Options{})
	statements := write(t, "holes.json", `{"schema": 1, "statements": [
		{"vulnerability": "CVE-2026-2", "component": "linux", "config": "CONFIG_NFSD"},
		{"vulnerability": "CVE-2026-3", "component": "linux", "config": "CONFIG_NET"},
		{"vulnerability": "CVE-2026-6", "component": "linux", "justification": "vulnerable_code_not_in_execute_path", "because": "nothing calls it"}]}`)
	r, err := Run(t.Context(), dir, write(t, "debian.json", tracker), statements)
	if err != nil {
		t.Fatal(err)
	}
	got := statuses(r)
	for id, want := range map[string]Status{"CVE-2026-1": Fixed, "CVE-2026-2": NotAffected, "CVE-2026-3": Affected, "CVE-2026-4": Fixed,
		"CVE-2026-5": Unknown, "CVE-2026-6": NotAffected, "CVE-2026-7": Fixed} {
		if got[id] != want {
			t.Errorf("%s is %q, want %q", id, got[id], want)
		}
	}
	if _, ok := got["CVE-2026-8"]; ok || len(got) != 7 {
		t.Errorf("%v", got)
	}
	if f := r.Findings[0]; f.ID != "CVE-2026-3" || !strings.Contains(f.Why, "unimportant") {
		t.Errorf("the first: %+v", f)
	}
	text, err := r.VEX(time.Unix(1_800_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	var vex struct {
		Context    string `json:"@context"`
		Statements []struct {
			Status        string
			Justification string
			Impact        string `json:"impact_statement"`
			Action        string `json:"action_statement"`
		}
	}
	if err := json.Unmarshal(text, &vex); err != nil || vex.Context != "https://openvex.dev/ns/v0.2.0" || len(vex.Statements) != 7 {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, s := range vex.Statements { // what OpenVEX wants of each
		if s.Status == "not_affected" && (s.Justification == "" || s.Impact == "") || s.Status == "affected" && s.Action == "" {
			t.Errorf("%+v", s)
		}
	}
}

const osv = `[
 {"id": "GO-2026-1", "aliases": ["CVE-2026-11", "GHSA-x"], "affected": [{"package": {"ecosystem": "Go", "name": "stdlib"},
   "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}, {"fixed": "1.25.9"}, {"introduced": "1.26.0-0"}, {"fixed": "99.0.0"}]}]}]},
 {"id": "GO-2026-2", "affected": [{"package": {"ecosystem": "Go", "name": "stdlib"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}, {"fixed": "1.20.0"}]}]}]},
 {"id": "GO-2026-3", "withdrawn": "2026-01-01T00:00:00Z", "affected": [{"package": {"ecosystem": "Go", "name": "stdlib"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}]}]}]},
 {"id": "DSA-1", "upstream": ["CVE-2026-12"], "affected": [{"package": {"ecosystem": "Debian:13", "name": "linux"}, "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "6.12.108-1"}]}]}]},
 {"id": "CVE-2026-13", "affected": [{"package": {"ecosystem": "Linux", "name": "Kernel"}, "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "6.1.0"}, {"last_affected": "6.12.106"}]}]}]},
 {"id": "CVE-2026-14", "affected": [{"package": {"ecosystem": "PyPI", "name": "zlib"}, "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]}]}
]`

func TestOSV(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "sql")
	bundletest.Make(t, dir, bundletest.Options{Program: program})
	want := map[string]Status{"CVE-2026-11": Affected, "GO-2026-2": Fixed, "CVE-2026-12": Affected, "CVE-2026-13": Fixed}
	var all []json.RawMessage
	if err := json.Unmarshal([]byte(osv), &all); err != nil {
		t.Fatal(err)
	}
	// A list, a zip and a directory of records say the same.
	zipped, files := filepath.Join(t.TempDir(), "all.zip"), t.TempDir()
	f, err := os.Create(zipped)
	if err != nil {
		t.Fatal(err)
	}
	z := zip.NewWriter(f)
	for i, text := range all {
		name := string(rune('a'+i)) + ".json"
		w, err := z.Create(name)
		if err == nil {
			_, err = w.Write(text)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(files, name), text, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, database := range []string{write(t, "all.json", osv), zipped, files} {
		r, err := Run(t.Context(), dir, database, "")
		if err != nil {
			t.Fatal(err)
		}
		got := statuses(r)
		for id, status := range want {
			if got[id] != status {
				t.Errorf("%s: %s is %q, want %q", filepath.Base(database), id, got[id], status)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %v", filepath.Base(database), got)
		}
	}
}

func TestNoDatabase(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sql")
	bundletest.Make(t, dir, bundletest.Options{})
	for name, text := range map[string]string{"empty": "", "text": "hello", "number": "7", "cut": `{"linux": {"CVE`, "wrong": `{"linux": {"CVE-1": 7}}`, "of nothing": `{}`, "of others": `{"emacs": {"CVE-1": {}}}`} {
		if _, err := Run(t.Context(), dir, write(t, name, text), ""); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := write(t, "debian.json", tracker)
	for _, text := range []string{`{"schema": 2, "statements": []}`, `{"schema": 1, "statements": [{"vulnerability": "x", "component": "y"}]}`, `{}`} {
		if _, err := Run(t.Context(), dir, good, write(t, "holes.json", text)); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzDatabase(f *testing.F) {
	f.Add([]byte(tracker))
	f.Add([]byte(osv))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "database")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		a := &auditor{targets: []target{{debian: "linux", kernel: true}, {module: "stdlib"}, {alpine: "zlib"}}, seen: map[string]int{}}
		if err := a.read(t.Context(), path); err != nil && fault.ClassOf(err) != fault.Usage {
			t.Errorf("class %v: %v", fault.ClassOf(err), err)
		}
	})
}
