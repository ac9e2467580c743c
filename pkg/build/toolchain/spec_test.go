package toolchain

import (
	"os"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestSpec(t *testing.T) {
	s, err := realSpec()
	if err != nil {
		t.Fatal(err)
	}
	if s.Suite != "bookworm" || len(s.Packages) < 20 {
		t.Errorf("got %v", s)
	}
	for _, bad := range []struct{ name, text, want string }{
		{"unknown key", "suite: bookworm\npackages: [make]\nextra: 1\n", "x.yaml:3:1: "},
		{"wrong type", "suite: bookworm\npackages: make\n", "x.yaml:2:"},
		{"empty", "", "x.yaml: empty"},
		{"no suite", "packages: [make]\n", `suite ""`},
		{"no packages", "suite: bookworm\n", "0 packages"},
		{"option", "suite: bookworm\npackages: [make, -oDebug=1]\n", `packages[1]: "-oDebug=1" is not the name`},
		{"path", "suite: bookworm\npackages: [./x.deb]\n", "is not the name"},
		{"twice", "suite: bookworm\npackages: [make, make]\n", "make is there twice"},
		{"long", strings.Repeat("#", MaxSpec+1), "longer than"},
	} {
		t.Run(bad.name, func(t *testing.T) {
			_, err := ParseSpec("x.yaml", []byte(bad.text))
			if err == nil || !strings.Contains(err.Error(), bad.want) || fault.ClassOf(err) != fault.Usage {
				t.Errorf("got %v, want %q", err, bad.want)
			}
		})
	}
}

func FuzzSpec(f *testing.F) {
	f.Add([]byte("suite: bookworm\npackages:\n  - make\n"))
	f.Add([]byte("suite: &a x\npackages: [*a]\n"))
	f.Add([]byte("{"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSpec("x.yaml", data)
		if err != nil && fault.ClassOf(err) != fault.Usage {
			t.Errorf("class %d: %v", fault.ClassOf(err), err)
		}
		if err == nil && (s.Suite == "" || len(s.Packages) == 0) {
			t.Errorf("accepted %+v", s)
		}
	})
}

// realSpec is that of the recipes here.
func realSpec() (Spec, error) {
	const path = "../../../recipes/toolchain/" + SpecFile
	data, err := os.ReadFile(path)
	if err != nil {
		return Spec{}, err
	}
	return ParseSpec(path, data)
}
