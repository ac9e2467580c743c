package audit

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// kept is a report as a file has it.
func kept(t testing.TB) []byte {
	t.Helper()
	r := Judge(&Facts{Name: "sql", Arch: "amd64", Bundle: "sha256:" + strings.Repeat("a", 64)})
	r.Time = "2026-01-02T03:04:05Z"
	text, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestKeep(t *testing.T) {
	text := kept(t)
	r, err := Parse(text)
	if err != nil || len(r.Rows) != 22 || r.Time == "" {
		t.Fatalf("%+v, %v", r, err)
	}
	if again, err := r.Marshal(); err != nil || !bytes.Equal(again, text) {
		t.Errorf("it is written otherwise the second time: %v", err)
	}
	for want, change := range map[string][2]string{
		"schema 2":               {`"schema": 1`, `"schema": 2`},
		"it counts":              {`"proven": 0`, `"proven": 1`},
		"row 3 is of item 4":     {`"number": 3,`, `"number": 4,`},
		"row 1 is \"fine\"":      {`"verdict": "not-proven"`, `"verdict": "fine"`},
		"unknown field":          {`"schema": 1`, `"schema": 1, "more": 1`},
		"is not sha256:":         {`"sha256:aa`, `"sha256:zz`},
		"time: ":                 {`2026-01-02T`, `yesterday `},
		"something stands":       {"\n}\n", "\n}\n{}\n"},
		"it is of a \"phone\"":   {`"kind": "bundle"`, `"kind": "phone"`},
		"unexpected end of JSON": {"", ""},
	} {
		changed := strings.Replace(string(text), change[0], change[1], 1)
		if change[0] == "" {
			changed = string(text[:len(text)/2])
			want = "EOF"
		}
		if _, err := Parse([]byte(changed)); fault.ClassOf(err) != fault.Verification || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	if _, err := Parse(make([]byte, MaxReport+1)); fault.ClassOf(err) != fault.Verification {
		t.Errorf("too long: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(kept(f))
	f.Add([]byte(`{"schema":1,"kind":"machine","rows":[]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := Parse(text)
		if err != nil {
			if fault.ClassOf(err) != fault.Verification {
				t.Errorf("%v", err)
			}
			return
		}
		again, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(again); err != nil {
			t.Errorf("what was taken is refused when it is written: %v", err)
		}
	})
}
