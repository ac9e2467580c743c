package sbom

import (
	"testing"

	"github.com/sovereign-build/sovereign/pkg/bundle"
)

func TestFormOf(t *testing.T) {
	for text, want := range map[string]int{
		`{"creationInfo":{"creators":["Tool: sovereign-build-1"]}}`:                         1,
		`{"metadata":{"tools":{"components":[{"name":"sovereign-build","version":"12"}]}}}`: 12,
		`{"metadata":{"tools":{"components":[{"name":"another","version":"12"}]}}}`:         0,
		`{"creationInfo":{"creators":["Tool: sovereign-build"]}}`:                           0,
		`{"creationInfo":{"creators":["Tool: sovereign-build-0"]}}`:                         0,
		`not JSON`: 0,
	} {
		if got := FormOf([]byte(text)); got != want {
			t.Errorf("%s: %d", text, got)
		}
	}
	bill := &Bill{manifest: &bundle.Manifest{}}
	files, err := bill.Files()
	if err != nil || len(files) != 2 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		if FormOf(f.Text) != Form {
			t.Errorf("%s has form %d", f.Name, FormOf(f.Text))
		}
	}
}
