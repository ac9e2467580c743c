package recipe

import (
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
)

var (
	sourcePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]{0,63}$`)
	seriesPattern = regexp.MustCompile(`^[0-9][0-9A-Za-z.]*$`)
	sha256Pattern = regexp.MustCompile(`^[0-9a-f]{64}$`)
	commitPattern = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	// refPattern is narrower than git-check-ref-format: what an argument list
	// and a message take as it is.
	refPattern = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._+/-]{0,199}$`)
)

func checkSources(doc *document, sources map[string]Source) error {
	c := &check{doc: doc}
	if len(sources) == 0 {
		c.failf("", "file lists no source")
	}
	for _, n := range slices.Sorted(slices.Values(keys(sources))) {
		if !sourcePattern.MatchString(n) {
			c.failf(n+"#key", "source name %q may have lower case letters, digits, dots, pluses and dashes", n)
		}
		c.source(n, sources[n])
	}
	return c.err
}

// source checks what is common to sources of every kind, and then the one it is
// of.
func (c *check) source(n string, s Source) {
	kinds := map[string]func(){
		"debian":    func() { c.debian(n, s) },
		"git":       func() { c.git(n+".git", s) },
		"npm":       func() { c.relative(n+".npm.lock", s.NPM.Lock) },
		"directory": func() { c.relative(n+".directory", s.Directory) },
	}
	of := ""
	for _, kind := range slices.Sorted(slices.Values(keys(kinds))) {
		if !c.given(n + "." + kind) {
			continue
		}
		if of != "" {
			c.failf(n+"."+kind, "source %q is of %s already, it can be of one only", n, of)
		}
		of = kind
	}
	// Which keys belong to which kind; the empty one is a file at url.
	goesWith := map[string][]string{
		"url": {"", "debian"}, "mirrors": {"", "debian"}, "version": {"", "directory"},
		"sha256": {""}, "list": {""}, "series": {"", "debian", "git"},
	}
	for _, key := range slices.Sorted(slices.Values(keys(goesWith))) {
		if c.given(n+"."+key) && !slices.Contains(goesWith[key], of) {
			c.failf(n+"."+key, "key %q does not go with %q", key, of)
		}
	}
	if s.URL != "" {
		c.sourceURL(n+".url", "url", s.URL)
	}
	for i, m := range s.Mirrors {
		if s.URL == "" {
			c.failf(n+".mirrors", "mirrors are of the file at url, and there is none")
		}
		c.sourceURL(index(n+".mirrors", i), "mirror", m)
	}
	if c.given(n+".series") && !seriesPattern.MatchString(s.Series) {
		c.failf(n+".series", "series %q is not the beginning of a version like %q", s.Series, "17")
	}
	if c.given(n+".version") && !versionPattern.MatchString(s.Version) {
		c.failf(n+".version", "version %q is not one like %q", s.Version, "1.3.1")
	}
	if of == "" {
		c.file(n, s)
		return
	}
	kinds[of]()
}

// sourceURL checks a URL with placeholders.
func (c *check) sourceURL(where, what, s string) {
	u, err := url.Parse(strings.ReplaceAll(s, "${version}", "1"))
	if err != nil || u.Scheme != "https" || u.Host == "" {
		c.failf(where, "%s %q is not an https URL", what, s)
	}
	c.placeholders(where, s)
}

func (c *check) placeholders(where, s string) {
	for _, p := range placeholder.FindAllString(s, -1) {
		if !strings.HasPrefix(p, "${version") || !strings.HasSuffix(p, "}") {
			c.failf(where, "unknown placeholder %s, known is ${version}", p)
		}
	}
}

// file checks a source that is a file at its url.
func (c *check) file(n string, s Source) {
	switch {
	case s.URL == "":
		c.failf(n, "source %q says nothing of where it is: give debian, git, npm, directory or url", n)
	case s.Version == "" && s.List == "":
		c.failf(n, "nothing says which versions of %q there are: give version, or list", n)
	case s.Version == "" && s.SHA256 != "":
		c.failf(n+".sha256", "sha256 is of one version: give that too")
	case s.SHA256 != "" && !sha256Pattern.MatchString(s.SHA256):
		c.failf(n+".sha256", "%q is not a SHA-256 sum: want 64 lower-case hex digits", s.SHA256)
	case s.List != "" && !strings.Contains(path.Base(s.URL), "${version"):
		c.failf(n+".list", "list is searched for names of the file, and that of url %q has no ${version}", s.URL)
	}
	if s.List != "" {
		c.sourceURL(n+".list", "list", s.List)
	}
	if s.Version != "" && !within(s.Version, s.Series) {
		c.failf(n+".version", "version %q is not in the series %s", s.Version, s.Series)
	}
}

func within(version, series string) bool {
	return series == "" || version == series || strings.HasPrefix(version, series+".")
}

func (c *check) debian(n string, s Source) {
	c.notEmpty(n+".debian.suite", s.Debian.Suite)
	if !sourcePattern.MatchString(s.Debian.Source) {
		c.failf(n+".debian.source", "%q is not the name of a Debian source package", s.Debian.Source)
	}
}

func (c *check) git(where string, s Source) {
	g := s.Git
	u, err := url.Parse(g.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "ssh" || u.Host == "" || u.Fragment != "" {
		c.failf(where+".url", "%q is not the https or ssh URL of a repository", g.URL)
	}
	given := 0
	for _, key := range []string{"tag", "branch", "commit"} {
		if c.given(where + "." + key) {
			given++
		}
	}
	switch {
	case given != 1:
		c.failf(where, "%d of tag, branch and commit are given, want one", given)
	case g.Commit != "" && !commitPattern.MatchString(g.Commit):
		c.failf(where+".commit", "%q is not the whole name of a commit: want 40 or 64 lower-case hex digits", g.Commit)
	case g.Branch != "" && (!refPattern.MatchString(g.Branch) || strings.Contains(g.Branch, "..")):
		c.failf(where+".branch", "%q is not a branch", g.Branch)
	case g.Tag != "":
		c.placeholders(where+".tag", g.Tag)
		if !strings.Contains(g.Tag, "${version") {
			c.failf(where+".tag", "tag %q has no ${version}; for a single tag give its commit", g.Tag)
		}
	case s.Series != "":
		c.failf(strings.TrimSuffix(where, ".git")+".series", "a series is of tags, and none are named")
	}
}

// relative checks a path beside sources.yaml.
func (c *check) relative(where, p string) {
	if p == "" || path.IsAbs(p) || path.Clean(p) != p || strings.HasPrefix(p, "-") || strings.ContainsAny(p, " \t\n\"'`\\") {
		c.failf(where, "%q is not a clean path relative to this file, without spaces", p)
	}
}
