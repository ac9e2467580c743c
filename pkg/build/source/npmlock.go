package source

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// maxNPMLock bounds a lock file of npm's; one with 2,000 packages is under
	// 1 MiB.
	maxNPMLock = 64 << 20
	// maxNPMPackages bounds what one names.
	maxNPMPackages = 50_000
)

// npmLock is what a lock file of npm or pnpm names.
type npmLock struct {
	version  string // of the program itself, "" where it says none
	packages []npmPackage
	direct   map[string]string // versions of what the program itself names
	// complete is the lock file with a URL for every package, which npm needs
	// to find it in its cache; nil for pnpm's.
	complete []byte
}

// npmPackage is one tarball.
type npmPackage struct {
	name, version string
	url           string // where the lock file says that it is; "" for where registries have it
	integrity     npmIntegrity
}

// file is where a registry has the tarball, below its own address.
func (p npmPackage) file() string {
	return p.name + "/-/" + path.Base(p.name) + "-" + p.version + ".tgz"
}

// npmIntegrity is a digest as npm's own cache names it.
type npmIntegrity struct {
	algorithm string // "sha512", "sha384" or "sha256"
	sum       string // hex
}

func (i npmIntegrity) hash() hash.Hash {
	switch i.algorithm {
	case "sha512":
		return sha512.New()
	case "sha384":
		return sha512.New384()
	}
	return sha256.New()
}

// parseIntegrity reads "sha512-BASE64", or several of those, of which the
// strongest counts (W3C Subresource Integrity).
func parseIntegrity(s string) (npmIntegrity, error) {
	best := npmIntegrity{}
	for _, algorithm := range []string{"sha512", "sha384", "sha256"} {
		for _, word := range strings.Fields(s) {
			b64, ok := strings.CutPrefix(word, algorithm+"-")
			if !ok {
				continue
			}
			b64, _, _ = strings.Cut(b64, "?")
			sum, err := base64.StdEncoding.Strict().DecodeString(b64)
			best = npmIntegrity{algorithm, fmt.Sprintf("%x", sum)}
			if err != nil || len(sum) != best.hash().Size() {
				return best, fmt.Errorf("integrity %.100q is no digest", word)
			}
			return best, nil
		}
	}
	if s == "" {
		return best, errors.New("there is no integrity")
	}
	return best, fmt.Errorf("integrity %.100q has none of sha512, sha384 and sha256", s)
}

var (
	npmName    = regexp.MustCompile(`^(@[A-Za-z0-9._~-]+/)?[A-Za-z0-9_~-][A-Za-z0-9._~-]*$`)
	npmVersion = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+[0-9A-Za-z.+-]*$`)
)

// lockText is a lock file with places for errors.
type lockText struct {
	name string
	data []byte
}

// errorf is an error at the first place where the file has a text, or of the
// whole file.
func (t lockText) errorf(at, format string, args ...any) *fault.Error {
	message := fmt.Sprintf(format, args...)
	if i := bytes.Index(t.data, []byte(at)); at != "" && i >= 0 {
		return t.at(int64(i), message)
	}
	return fault.Errorf(fault.Usage, "%s: %s", t.name, message)
}

func (t lockText) at(offset int64, message string) *fault.Error {
	before := t.data[:min(max(offset, 0), int64(len(t.data)))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := len(before) - (bytes.LastIndexByte(before, '\n') + 1) + 1
	return fault.Errorf(fault.Usage, "%s:%d:%d: %s", t.name, line, column, message)
}

// parseNPMLock reads package-lock.json of version 2 or 3, or pnpm-lock.yaml of
// version 6 or 9: as the name says. Errors are of class fault.Usage and begin
// with file:line:column where there is such a place.
func parseNPMLock(name string, data []byte) (*npmLock, error) {
	t := lockText{name, data}
	if len(data) > maxNPMLock {
		return nil, t.errorf("", "larger than %d bytes", maxNPMLock)
	}
	var l *npmLock
	var err error
	if ext := path.Ext(name); ext == ".yaml" || ext == ".yml" {
		l, err = t.pnpm()
	} else {
		l, err = t.npm()
	}
	if err != nil {
		return nil, err
	}
	if len(l.packages) > maxNPMPackages {
		return nil, t.errorf("", "names more than %d packages", maxNPMPackages)
	}
	slices.SortFunc(l.packages, func(a, b npmPackage) int { return strings.Compare(a.file(), b.file()) })
	for i := 1; i < len(l.packages); i++ {
		if a, b := l.packages[i-1], l.packages[i]; a.file() == b.file() && a.integrity != b.integrity {
			return nil, t.errorf("", "%s %s has two integrities", a.name, a.version)
		}
	}
	l.packages = slices.CompactFunc(l.packages, func(a, b npmPackage) bool { return a.file() == b.file() })
	return l, nil
}

// npmEntry is a value of "packages" in package-lock.json.
type npmEntry struct {
	Name      string            `json:"name"`
	Version   string            `json:"version"`
	Resolved  string            `json:"resolved"`
	Integrity string            `json:"integrity"`
	Link      bool              `json:"link"`
	InBundle  bool              `json:"inBundle"`
	Depends   map[string]string `json:"dependencies"`
	Develop   map[string]string `json:"devDependencies"`
	Optional  map[string]string `json:"optionalDependencies"`
}

func (t lockText) npm() (*npmLock, error) {
	var file struct {
		Format   int                 `json:"lockfileVersion"`
		Version  string              `json:"version"`
		Packages map[string]npmEntry `json:"packages"`
	}
	if err := json.Unmarshal(t.data, &file); err != nil {
		var syntax *json.SyntaxError
		var typ *json.UnmarshalTypeError
		switch {
		case errors.As(err, &syntax):
			return nil, t.at(syntax.Offset-1, "not JSON: "+err.Error())
		case errors.As(err, &typ):
			return nil, t.at(typ.Offset-1, typ.Field+" is "+typ.Value+", which is not expected there")
		}
		return nil, t.errorf("", "%v", err)
	}
	if file.Format != 2 && file.Format != 3 {
		return nil, t.errorf(`"lockfileVersion"`, "lockfileVersion %d is not 2 or 3", file.Format).
			Hintf("have npm 7 or newer write it")
	}
	root := file.Packages[""]
	l := &npmLock{version: root.Version, direct: map[string]string{}}
	if l.version == "" {
		l.version = file.Version
	}
	urls := map[string]string{} // to be filled in, by key
	for _, key := range slices.Sorted(maps.Keys(file.Packages)) {
		e := file.Packages[key]
		i := strings.LastIndex(key, "node_modules/")
		if i < 0 || e.Link || e.InBundle {
			continue // the program itself, a part of it, or in another's tarball
		}
		name := key[i+len("node_modules/"):]
		if e.Name != "" {
			name = e.Name // of an alias
		}
		p := npmPackage{name: name, version: e.Version, url: e.Resolved}
		var err error
		if p.integrity, err = parseIntegrity(e.Integrity); err != nil {
			return nil, t.errorf(fmt.Sprintf("%q", key), "%s: %v", key, err).Hintf("%s", noIntegrity)
		}
		if err := p.check(); err != nil {
			return nil, t.errorf(fmt.Sprintf("%q", key), "%s: %v", key, err)
		}
		if p.url == "" {
			// Nothing is asked there: the cache is searched by integrity, but
			// only for what has an address.
			urls[key] = "https://registry.invalid/" + p.file()
		}
		l.packages = append(l.packages, p)
	}
	for _, names := range []map[string]string{root.Depends, root.Develop, root.Optional} {
		for n := range names {
			if e, ok := file.Packages["node_modules/"+n]; ok && !e.Link && e.Name == "" {
				l.direct[n] = e.Version
			}
		}
	}
	var err error
	l.complete, err = t.withURLs(urls)
	return l, err
}

const noIntegrity = "let npm write the lock file anew; what is of git or of a file has none, and can be a source of its own"

// check refuses what is no package of a registry.
func (p npmPackage) check() error {
	switch {
	case !npmName.MatchString(p.name) || len(p.name) > 214:
		return fmt.Errorf("%.100q is not a package's name", p.name)
	case !npmVersion.MatchString(p.version) || len(p.version) > 128:
		return fmt.Errorf("%.100q is not a version", p.version)
	case p.url != "" && !strings.HasPrefix(p.url, "https://") && !strings.HasPrefix(p.url, "http://"):
		return fmt.Errorf("it is at %.200q, and not in a registry", p.url)
	}
	return nil
}

// withURLs is package-lock.json with addresses filled in, as npm would write
// it.
func (t lockText) withURLs(urls map[string]string) ([]byte, error) {
	if len(urls) == 0 {
		return t.data, nil
	}
	var file map[string]any
	d := json.NewDecoder(bytes.NewReader(t.data))
	d.UseNumber()
	if err := d.Decode(&file); err != nil {
		return nil, t.errorf("", "%v", err)
	}
	packages, ok := file["packages"].(map[string]any)
	for key, url := range urls {
		e, isMap := packages[key].(map[string]any)
		if !ok || !isMap {
			return nil, t.errorf(fmt.Sprintf("%q", key), "%s is not a package", key)
		}
		e["resolved"] = url
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(file)
	return out.Bytes(), err
}

// pnpm reads pnpm-lock.yaml, whose packages stand under NAME@VERSION, in
// version 6 with a slash before it.
func (t lockText) pnpm() (*npmLock, error) {
	type dependency struct {
		Version string `yaml:"version"`
	}
	type importer struct {
		Depends  map[string]dependency `yaml:"dependencies"`
		Develop  map[string]dependency `yaml:"devDependencies"`
		Optional map[string]dependency `yaml:"optionalDependencies"`
	}
	var file struct {
		Format    string              `yaml:"lockfileVersion"`
		Importers map[string]importer `yaml:"importers"`
		Top       importer            `yaml:",inline"` // version 6 without workspaces
		Packages  map[string]struct {
			Resolution struct {
				Integrity string `yaml:"integrity"`
				Tarball   string `yaml:"tarball"`
			} `yaml:"resolution"`
		} `yaml:"packages"`
	}
	if err := yaml.Unmarshal(t.data, &file); err != nil {
		var ye yaml.Error
		if errors.As(err, &ye) && ye.GetToken() != nil && ye.GetToken().Position != nil {
			at := ye.GetToken().Position
			return nil, fault.Errorf(fault.Usage, "%s:%d:%d: %s", t.name, at.Line, at.Column, ye.GetMessage())
		}
		return nil, t.errorf("", "not YAML: %v", err)
	}
	if major, _, _ := strings.Cut(file.Format, "."); major != "6" && major != "9" {
		return nil, t.errorf("lockfileVersion", "lockfileVersion %q is not 6 or 9", file.Format)
	}
	l := &npmLock{direct: map[string]string{}}
	for _, key := range slices.Sorted(maps.Keys(file.Packages)) {
		id, _, _ := strings.Cut(strings.TrimPrefix(key, "/"), "(") // peers stand behind it
		i := strings.LastIndexByte(id, '@')
		if i <= 0 {
			return nil, t.errorf(key, "%q is not NAME@VERSION", key)
		}
		r := file.Packages[key].Resolution
		p := npmPackage{name: id[:i], version: id[i+1:], url: r.Tarball}
		var err error
		if p.integrity, err = parseIntegrity(r.Integrity); err != nil {
			return nil, t.errorf(key, "%s: %v", key, err).Hintf("%s", noIntegrity)
		}
		if err := p.check(); err != nil {
			return nil, t.errorf(key, "%s: %v", key, err)
		}
		l.packages = append(l.packages, p)
	}
	top, ok := file.Importers["."]
	if !ok {
		top = file.Top
	}
	for _, names := range []map[string]dependency{top.Depends, top.Develop, top.Optional} {
		for n, d := range names {
			if v, _, _ := strings.Cut(d.Version, "("); npmVersion.MatchString(v) {
				l.direct[n] = v
			}
		}
	}
	return l, nil
}
