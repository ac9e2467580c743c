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
	for name, format := range map[string]func() ([]byte, error){"SPDX": bill.SPDX, "CycloneDX": bill.CycloneDX} {
		text, err := format()
		if err != nil || FormOf(text) != Form {
			t.Errorf("%s has form %d, %v", name, FormOf(text), err)
		}
	}
}
