package bundle

import (
	"github.com/sovereign-build/sovereign/internal/strictjson"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// maxManifest bounds a manifest, bytes. A real one is some 10 KiB; the limit
// keeps a damaged or hostile file from costing more than a moment.
const maxManifest = 4 << 20

// Parse reads a manifest. file is the name to use in errors, which are of
// class fault.Usage and begin with file:line:column: a syntax error, an
// unknown, missing or repeated key, a wrong type, a value outside its range.
func Parse(file string, data []byte) (*Manifest, error) {
	if len(data) > maxManifest {
		return nil, fault.Errorf(fault.Usage, "%s: a manifest of %d bytes is larger than %d", file, len(data), maxManifest)
	}
	m := new(Manifest)
	d, err := strictjson.Decode(strictjson.File{Name: file, Data: data, What: "manifest",
		Hint: "build the bundle again; a manifest is written by the build and not by hand"}, m)
	if err != nil {
		return nil, err
	}
	if err := m.check(d.Errorf); err != nil {
		return nil, err
	}
	return m, nil
}
