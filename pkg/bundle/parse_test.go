package bundle

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func valid(t testing.TB) string {
	t.Helper()
	m := sample()
	m.Artifacts = []Artifact{
		{File: "bzImage", Role: RoleKernel, Digest: "sha256:" + strings.Repeat("1", 64), Size: 6},
		{File: "initramfs", Role: RoleInitramfs, Digest: "sha256:" + strings.Repeat("2", 64), Size: 4},
		{File: "root.img", Role: RoleRoot, Digest: "sha256:" + strings.Repeat("3", 64), Size: 4},
	}
	data, err := Marshal(&m)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestParseErrors(t *testing.T) {
	text := valid(t)
	tests := []struct {
		name, old, new, want string
	}{
		{"syntax", `"name": "sql",`, `"name" "sql",`, "m.json:3:10: not JSON: invalid character"},
		{"cut short", text[len(text)/2:], "", "ends in the middle"},
		{"empty", text, "", "m.json:1:1: the file ends"},
		{"more behind", "\n}\n", "\n}\n{}", "something follows"},
		{"unknown key", `"schema": 1,`, "\"schema\": 1,\n  \"colour\": 3,", `m.json:3:3: unknown key "colour"`},
		{"unknown key inside", `"cpus": 2`, `"cpu": 2`, `unknown key "cpu" in vm`},
		{"case counts", `"name": "sql"`, `"Name": "sql"`, `m.json:3:3: unknown key "Name"`},
		{"twice", `"schema": 1,`, `"schema": 1, "schema": 1,`, `m.json:2:16: key "schema" is given twice`},
		{"type", `"cpus": 2`, `"cpus": "2"`, "vm.cpus is a string, want a whole number"},
		{"null", `"cpus": 2`, `"cpus": null`, "vm.cpus is null"},
		{"object for a number", `"cpus": 2`, `"cpus": {}`, "vm.cpus is an object, want a whole number"},
		{"schema", `"schema": 1`, `"schema": 2`, "m.json:2:13: schema: 2 is not 1"},
		{"name", `"sql"`, `"../sql"`, "m.json:3:11: name:"},
		{"arch", `"amd64"`, `"vax"`, "arch:"},
		{"absent", `"arch": "amd64",`, ``, `the manifest lacks the key "arch"`},
		{"artifact outside", `"bzImage"`, `"../bzImage"`, "artifacts[0].file:"},
		{"unsorted", `"bzImage"`, `"z"`, "artifacts[1].file:"},
		{"no kernel", `"role": "kernel"`, `"role": "colonel"`, `0 have the role "kernel"`},
		{"digest", "sha256:1", "sha256:x", "artifacts[0].digest:"},
		{"size", `"size": 6`, `"size": -6`, "artifacts[0].size:"},
		{"hash", `"hash": "b`, `"hash": "B`, "root.hash:"},
		{"serials", `"serial": "data"`, `"serial": "root"`, "vm.data.serial:"},
		{"data size", "8589934592", "100", "vm.data.size:"},
		{"cmdline", "root.serial=root", `a\nb`, "vm.cmdline:"},
		{"port", "5432,", "70000,", "ports[0].port:"},
		{"service", `"service": "postgresql"`, `"service": "mysql"`, "ports[0].service:"},
		{"url reference", "${address}", "${addres}", `ports[0].url: "${addres}" is neither`},
		{"url open", "${address}/app", "${address", `is neither`},
		{"url certificate", "${address}", "${certificate:../x}", `ports[0].url: "${certificate:../x}" is neither`},
		{"url address of", "${address}", "${address:x}", `ports[0].url: "${address:x}" is neither`},
		{"url that drives a terminal", "/app?", "/\u009b2J?", `ports[0].url: it holds a character that is not printable ASCII`},
		{"url", "postgres://", "", "is not a URL"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if !strings.Contains(text, tt.old) {
				t.Fatalf("the valid manifest lacks %q", tt.old)
			}
			_, err := Parse("m.json", []byte(strings.Replace(text, tt.old, tt.new, 1)))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if fault.ClassOf(err) != fault.Usage || fault.HintOf(err) == "" || !strings.HasPrefix(err.Error(), "m.json:") {
				t.Errorf("class %d, hint %q, text %q", fault.ClassOf(err), fault.HintOf(err), err)
			}
		})
	}
}

func TestLoadWithoutABundle(t *testing.T) {
	if _, err := Load(t.TempDir()); fault.ClassOf(err) != fault.Usage {
		t.Errorf("got %v", err)
	}
}

// FuzzParse checks that no input makes the parser panic, and that what it
// accepts comes back the same from its own writer.
func FuzzParse(f *testing.F) {
	f.Add([]byte(valid(f)))
	f.Add([]byte(`{"schema":1,"vm":{"data":[]}}`))
	f.Add([]byte(`[[[[[[[[[[[[[[[[`))
	f.Add([]byte("{\"schema\":1e999,\"\u2028\":0}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse("m.json", data)
		if err != nil {
			return
		}
		once, err := Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("m.json", once)
		if err != nil {
			t.Fatal(err)
		}
		if twice, err := Marshal(again); err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%v\n%s\n%s", err, once, twice)
		}
	})
}
