package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/audit"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestAuditMachine(t *testing.T) {
	f := &fake{}
	var out, errs bytes.Buffer
	c := &CLI{Args: []string{"audit", "sql", "--json"}, Stdout: &out, Stderr: &errs, Dial: f.dial}
	code := c.Run(t.Context())
	var r audit.Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("exit %d, %v: %s %s", code, err, out.String(), errs.String())
	}
	if len(r.Rows) != 22 || r.Kind != audit.KindMachine || r.Name != "sql" || (code == 0) != r.OK() {
		t.Errorf("exit %d: %+v", code, r)
	}
	// A guest that says nothing proves nothing.
	if r.Counts.Proven != 0 {
		t.Errorf("%+v", r.Counts)
	}
	for _, call := range f.calls {
		if strings.Contains(call, "kill") {
			t.Errorf("it disturbs without having been asked to: %s", call)
		}
	}
}

func TestAuditWords(t *testing.T) {
	r := &audit.Report{Kind: audit.KindMachine, Name: "sql", Rows: []audit.Row{
		{Number: 13, Part: "PostgreSQL", Item: "ICU", Looked: "pg_database", Seen: "153.1", Verdict: audit.Failed, Why: "another\nICU", Mend: "rebuild the indexes", Remedy: audit.Reindex},
		{Number: 18, Item: "freeze", Verdict: audit.NotProven, Why: "not tried", Mend: "audit again", Remedy: audit.Disturb},
	}, Counts: audit.Counts{Failed: 1, NotProven: 1}}
	var out bytes.Buffer
	s := &session{CLI: &CLI{Stdout: &out}}
	err := s.writeAudit("sql", r)
	if t2, ok := err.(told); !ok || t2.code != int(fault.Verification) {
		t.Errorf("%v", err)
	}
	for _, want := range []string{"13  FAILED", "why: another ICU\n", "to mend it: rebuild the indexes: sovereign-build reindex sql\n",
		"18  not proven", "to prove it: audit again: sovereign-build audit sql --disturb\n", "0 proven, 1 failed, 1 not proven, 0 not applicable\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	r.Counts.Failed = 0
	if err := s.writeAudit("sql", r); err != nil {
		t.Errorf("what is not proven is no failure: %v", err)
	}
	// Every remedy is a command.
	for _, remedy := range []audit.Remedy{audit.Rebuild, audit.RunIt, audit.Disturb, audit.KeepUp, audit.ResetSetting, audit.Reindex, audit.GiveAuthKey, audit.ReadLog} {
		if !strings.HasPrefix(s.remedyCommand("sql", remedy), "sovereign-build ") {
			t.Errorf("%s is no command", remedy)
		}
	}
}

// The report that is kept is what was shown, and verify takes it.
func TestAuditSigned(t *testing.T) {
	dir := t.TempDir()
	key, report := filepath.Join(dir, "a.key"), filepath.Join(dir, "audit.json")
	run := func(args ...string) (int, string) {
		t.Helper()
		f := &fake{}
		var out, errs bytes.Buffer
		c := &CLI{Args: args, Stdout: &out, Stderr: &errs, Dial: f.dial}
		return c.Run(t.Context()), out.String() + errs.String()
	}
	if code, said := run("key", "new", key, "--no-password"); code != 0 {
		t.Fatal(said)
	}
	code, said := run("audit", "sql", "--json", "--sign", report, "--key-file", key)
	var shown audit.Report
	if err := json.Unmarshal([]byte(strings.SplitAfter(said, "\n")[0]), &shown); err != nil {
		t.Fatalf("exit %d, %v: %s", code, err, said)
	}
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := audit.Parse(text)
	if err != nil || kept.Time == "" || kept.Counts != shown.Counts {
		t.Errorf("kept %+v, %v", kept, err)
	}
	if code, said := run("verify", report, "--key", key+".pub"); code != 0 || !strings.Contains(said, "an audit of the machine sql") {
		t.Errorf("exit %d: %s", code, said)
	}
	if err := os.WriteFile(report, bytes.Replace(text, []byte(`"name": "sql"`), []byte(`"name": "sqk"`), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, said := run("verify", report, "--json"); code != int(fault.Verification) || !strings.Contains(said, `"verified":false`) {
		t.Errorf("exit %d: %s", code, said)
	}
	for _, args := range [][]string{{"audit", "sql", "--key-file", key}, {"audit", "sql", "--sign", report}, {"verify", report, "--rebuild"}} {
		if code, said := run(args...); code != int(fault.Usage) {
			t.Errorf("%q: exit %d, %s", args, code, said)
		}
	}
}

func TestAuditErrors(t *testing.T) {
	for _, args := range [][]string{{"audit"}, {"audit", "no/bundle"}, {"audit", newBundle(t), "--disturb"}} {
		f := &fake{}
		var out, errs bytes.Buffer
		c := &CLI{Args: args, Stdout: &out, Stderr: &errs, Dial: f.dial}
		if code := c.Run(t.Context()); code != int(fault.Usage) {
			t.Errorf("%q: exit %d, %s", args, code, errs.String())
		}
	}
}
