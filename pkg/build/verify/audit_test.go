package verify

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/audit"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestAudit(t *testing.T) {
	var keys [2]signature.SecretKey
	for i := range keys {
		var err error
		if keys[i], err = signature.NewKey(); err != nil {
			t.Fatal(err)
		}
	}
	r := audit.Judge(&audit.Facts{Name: "sql", Arch: "amd64", Bundle: "sha256:" + strings.Repeat("a", 64)})
	text, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	good, err := signature.SignNote(keys[0], audit.Note, text)
	if err != nil {
		t.Fatal(err)
	}
	other, err := signature.SignNote(keys[0], "sovereign-step-v1", text)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "audit.json")
	write := func(report, note []byte) {
		t.Helper()
		for p, b := range map[string][]byte{path: report, path + SignatureSuffix: note} {
			if err := os.WriteFile(p, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(text, good)
	for _, key := range []signature.Key{"", keys[0].Public()} {
		report, err := Audit(t.Context(), path, Options{Key: key})
		if err != nil || report.Key != keys[0].Public() || len(report.Checks) != 4 || !strings.Contains(report.Checks[2].Detail, "0 proven, 0 failed, 15 not proven") {
			t.Errorf("%+v, %v", report, err)
		}
	}
	refused := func(what, want string, key signature.Key) {
		t.Helper()
		report, err := Audit(t.Context(), path, Options{Key: key})
		if fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), want) || report.Checks[len(report.Checks)-1].Result != Failed {
			t.Errorf("%s: %+v, %v", what, report, err)
		}
	}
	refused("another key", "not trusted here", keys[1].Public())
	write([]byte(strings.Replace(string(text), `"name": "sql"`, `"name": "sqk"`, 1)), good)
	refused("another name", "was not made of this text", "")
	write([]byte(strings.Replace(string(text), `"not_proven": 15`, `"not_proven": 2`, 1)), good)
	refused("other counts", "it counts", "")
	write(text, other)
	refused("another kind", "a text of sovereign-audit-v1 is wanted", "")
	write(text, good[:len(good)-5])
	refused("cut off", "cut off", "")
	if err := os.Remove(path + SignatureSuffix); err != nil {
		t.Fatal(err)
	}
	refused("no signature", "no such file", "")
}
