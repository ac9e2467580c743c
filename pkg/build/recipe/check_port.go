package recipe

import (
	"path"
	"regexp"
	"slices"
	"strings"
)

var (
	ownerPattern = regexp.MustCompile(`^[0-9]{1,5}:[0-9]{1,5}$`)
)

func checkPort(doc *document, p *PortFile) error {
	c := &check{doc: doc}
	if !packagePattern.MatchString(p.Name) {
		c.failf("name", "port name %q is not an apk package name", p.Name)
	}
	c.notEmpty("summary", p.Summary)
	c.notEmpty("license", p.License)
	if c.given("version") && !versionPattern.MatchString(p.Version) {
		c.failf("version", "version %q is not an apk version like %q", p.Version, "1.3.1")
	}
	if p.Version == "" && len(p.Sources) == 0 {
		c.failf("name", "port %q has neither a version nor a source to take it from", p.Name)
	}
	c.between("release", p.Release, 0, 9999)
	seen := map[string]string{}
	for i, s := range p.Sources {
		unique(c, seen, index("sources", i), "source", s)
	}
	c.dependencies("build", p.Build)
	if p.Go != nil {
		c.oneOf("go.source", "Go source", p.Go.Source, "port", "sovereign")
	}
	if len(p.Packages) == 0 {
		c.failf("packages", "packages is empty, a port makes at least one")
	}
	names := map[string]string{}
	for i, pkg := range p.Packages {
		checkPortPackage(c, index("packages", i), pkg)
		unique(c, names, index("packages", i)+".name", "package", pkg.Name)
	}
	return c.err
}

func checkPortPackage(c *check, where string, p PortPackage) {
	if !packagePattern.MatchString(p.Name) {
		c.failf(where+".name", "%q is not an apk package name", p.Name)
	}
	for i, f := range p.Files {
		c.pattern(index(where+".files", i), f)
	}
	c.dependencies(where+".depends", p.Depends)
	c.dependencies(where+".provides", p.Provides)
	c.dependencies(where+".replaces", p.Replaces)
	c.dependencies(where+".install_if", p.InstallIf)
	for _, pattern := range slices.Sorted(slices.Values(keys(p.Owners))) {
		at := where + ".owners." + pattern
		c.pattern(at+"#key", pattern)
		if !ownerPattern.MatchString(p.Owners[pattern]) {
			c.failf(at, "owner %q is not uid:gid in numbers like %q", p.Owners[pattern], "70:70")
		}
	}
}

// pattern checks a pattern of files relative to $OUT.
func (c *check) pattern(where, p string) {
	_, err := path.Match(p, "")
	if p == "" || strings.HasPrefix(p, "/") || path.Clean(p) != p || strings.HasPrefix(p, "../") || err != nil {
		c.failf(where, "%q is not a pattern of files relative to $OUT like %q or %q", p, "usr/bin/*", "usr/lib/**")
	}
}
