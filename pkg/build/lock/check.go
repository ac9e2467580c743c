package lock

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/store"
)

// MaxSize is the largest size of one input, in bytes.
const MaxSize = 8 << 30

// maxMirrors bounds how long a missing input can take to be declared missing.
const maxMirrors = 32

// badValue says which value of a lock is wrong.
type badValue struct {
	path string
	err  error
}

func (b *badValue) Error() string { return fmt.Sprintf("%s: %s", b.path, b.err) }
func (b *badValue) Unwrap() error { return b.err }

// checker collects the first wrong value.
type checker struct{ bad *badValue }

func (c *checker) that(ok bool, path, format string, args ...any) {
	if !ok && c.bad == nil {
		c.bad = &badValue{path, fmt.Errorf(format, args...)}
	}
}

func (c *checker) input(path string, d store.Digest, size int64) {
	c.that(d.Hex() != "", path+".digest", "%q is not a digest: want sha256: and 64 lower-case hex digits", d)
	c.that(size >= 1 && size <= MaxSize, path+".size", "%d is not from 1 to %d", size, int64(MaxSize))
}

// check finds the first value that no lock may have.
func (l *Lock) check() *badValue {
	c := new(checker)
	c.that(l.Schema == Schema, "schema", "%d is not supported, want %d; use the version of this program that wrote it", l.Schema, Schema)
	c.that(validDate(l.SourceDate), "source_date", "%d is not from 1 to %d", l.SourceDate, maxDate)
	seen := make(map[string]bool)
	for i, s := range l.Sources {
		p := fmt.Sprintf("sources[%d]", i)
		c.that(validName(s.Name), p+".name", "%q is not a name: want lower-case letters, digits, + - .", s.Name)
		c.that(s.Name != ToolchainName && s.Name != GoName && s.Name != PackagesName, p+".name", "%q is reserved", s.Name)
		c.that(!seen[s.Name], p+".name", "%q is locked twice", s.Name)
		seen[s.Name] = true
		c.that(validWord(s.Version), p+".version", "%q is not a version", s.Version)
		c.that(validWord(s.File) && validPath(s.File) && path.Base(s.File) == s.File, p+".file", "%q is not a plain file name", s.File)
		c.input(p, s.Digest, s.Size)
		c.that(len(s.Mirrors) >= 1 && len(s.Mirrors) <= maxMirrors, p+".mirrors", "%d mirrors, want 1 to %d", len(s.Mirrors), maxMirrors)
		for j, m := range s.Mirrors {
			_, err := ParseMirror(m)
			c.that(err == nil, fmt.Sprintf("%s.mirrors[%d]", p, j), "%v", err)
		}
	}
	l.checkToolchain(c)
	l.checkGo(c)
	checkPackages(c, "packages", l.Packages)
	checkPackages(c, "released", l.Released)
	return c.bad
}

func checkPackages(c *checker, key string, packages []Package) {
	seen := make(map[string]bool)
	for i, a := range packages {
		p := fmt.Sprintf("%s[%d]", key, i)
		for _, f := range []struct{ key, value string }{{"name", a.Name}, {"version", a.Version}, {"arch", a.Arch}} {
			c.that(packageWord.MatchString(f.value), p+"."+f.key, "%q is not a package's %s", f.value, f.key)
		}
		c.that(!seen[a.File()], p+".name", "%q is locked twice", a.File())
		seen[a.File()] = true
		c.that(validWord(a.Repository), p+".repository", "%q is not a URL or directory", a.Repository)
		c.that(a.Tag == "" || packageWord.MatchString(a.Tag), p+".tag", "%q is not a repository's tag", a.Tag)
		c.input(p, a.Digest, a.Size)
	}
}

func (l *Lock) checkToolchain(c *checker) {
	t := l.Toolchain
	c.that((t.Suite == "") == (len(t.Packages) == 0), "toolchain.suite", "%q with %d packages: want both or neither", t.Suite, len(t.Packages))
	c.that(t.Suite == "" || validName(t.Suite), "toolchain.suite", "%q is not a suite", t.Suite)
	c.that(t.Image == "" || t.Image.Hex() != "", "toolchain.image", "%q is not a digest", t.Image)
	seen := make(map[string]bool)
	for i, d := range t.Packages {
		p := fmt.Sprintf("toolchain.packages[%d]", i)
		c.that(validName(d.Name), p+".name", "%q is not a package name", d.Name)
		c.that(validName(d.Arch), p+".arch", "%q is not an architecture", d.Arch)
		key := d.Name + ":" + d.Arch
		c.that(!seen[key], p+".name", "%q is locked twice", key)
		seen[key] = true
		c.that(debianVersion.MatchString(d.Version), p+".version", "%q is not a Debian version", d.Version)
		c.that(validWord(d.File) && validPath(d.File), p+".file", "%q is not a clean relative path", d.File)
		c.input(p, d.Digest, d.Size)
	}
}

func (l *Lock) checkGo(c *checker) {
	g := l.Go
	c.that((g.Version == "") == (len(g.Modules) == 0), "go.version", "%q with %d modules: want both or neither", g.Version, len(g.Modules))
	c.that(g.Version == "" || goVersion.MatchString(g.Version), "go.version", "%q is not a Go version, want go1.N.N", g.Version)
	for i, m := range g.Modules {
		p := fmt.Sprintf("go.modules[%d]", i)
		c.that(validWord(m.Name) && validPath(m.Name), p+".name", "%q is not a module path", m.Name)
		c.that(strings.HasPrefix(m.Version, "v") && validWord(m.Version) && validPath(m.Version), p+".version", "%q is not a module version", m.Version)
		c.that(validSum(m.Sum), p+".sum", "%q is not a module hash, want h1: and 44 base64 characters", m.Sum)
		c.input(p, m.Digest, m.Size)
	}
}

// Schemes of mirrors: the ways in which a source's bytes come.
const (
	// SchemeHTTPS is a file of an https server: "https://HOST/PATH".
	SchemeHTTPS = "https"
	// SchemeDebian is a file of a Debian source package:
	// "debian:SUITE/SOURCE=VERSION".
	SchemeDebian = "debian"
	// SchemeGit is the tree of a commit: "git:URL#COMMIT".
	SchemeGit = "git"
	// SchemeNPM is what a lock file of npm or pnpm names:
	// "npm:PATH=SHA256OFTHATFILE".
	SchemeNPM = "npm"
	// SchemeDirectory is a directory beside the recipe: "directory:PATH".
	SchemeDirectory = "directory"
)

// Mirror is one place to get a source from. Which values it has follows from
// its scheme.
type Mirror struct {
	Scheme string
	// URL is the file of https, or the repository of git.
	URL string
	// Suite, Source and Version name a version of a Debian source package.
	Suite, Source, Version string
	// Commit of git: 40 hex digits, or 64.
	Commit string
	// Path is npm's lock file, or a directory, relative to sources.yaml.
	Path string
	// Lock is the digest of npm's lock file.
	Lock store.Digest
}

// mirrors are the readers of each scheme. They get what follows the scheme's
// colon, but https the whole.
var mirrors = map[string]struct {
	form  string
	parse func(string) (Mirror, bool)
}{
	SchemeHTTPS: {"https://HOST/PATH", func(s string) (Mirror, bool) {
		return Mirror{URL: s}, validURL(s, "https")
	}},
	SchemeDebian: {"debian:SUITE/SOURCE=VERSION", func(s string) (Mirror, bool) {
		suite, pkg, ok1 := strings.Cut(s, "/")
		source, version, ok2 := strings.Cut(pkg, "=")
		return Mirror{Suite: suite, Source: source, Version: version},
			ok1 && ok2 && validName(suite) && validName(source) && debianVersion.MatchString(version)
	}},
	SchemeGit: {"git:https://HOST/PATH#COMMIT", func(s string) (Mirror, bool) {
		repository, commit, ok := strings.Cut(s, "#")
		return Mirror{URL: repository, Commit: commit}, ok && ValidRepository(repository) && ValidCommit(commit)
	}},
	SchemeNPM: {"npm:PATH=SHA256", func(s string) (Mirror, bool) {
		i := strings.LastIndexByte(s, '=')
		if i < 0 {
			return Mirror{}, false
		}
		m := Mirror{Path: s[:i], Lock: store.Digest("sha256:" + s[i+1:])}
		return m, ValidRelative(m.Path) && m.Lock.Hex() != ""
	}},
	SchemeDirectory: {"directory:PATH", func(s string) (Mirror, bool) {
		return Mirror{Path: s}, ValidRelative(s)
	}},
}

// ParseMirror reads a mirror: a scheme and, after a colon, what that scheme
// has.
func ParseMirror(s string) (Mirror, error) {
	scheme, rest, _ := strings.Cut(s, ":")
	kind, ok := mirrors[scheme]
	if !ok || !validWord(s) {
		var forms []string
		for _, scheme := range slices.Sorted(maps.Keys(mirrors)) {
			forms = append(forms, mirrors[scheme].form)
		}
		return Mirror{}, fmt.Errorf("mirror %q is none of %s", s, strings.Join(forms, ", "))
	}
	if scheme == SchemeHTTPS {
		rest = s
	}
	m, ok := kind.parse(rest)
	if !ok {
		return Mirror{}, fmt.Errorf("mirror %q is not %s", s, kind.form)
	}
	m.Scheme = scheme
	return m, nil
}

// String is the mirror as ParseMirror reads it.
func (m Mirror) String() string {
	switch m.Scheme {
	case SchemeGit:
		return "git:" + m.URL + "#" + m.Commit
	case SchemeNPM:
		return "npm:" + m.Path + "=" + m.Lock.Hex()
	case SchemeDirectory:
		return "directory:" + m.Path
	case SchemeDebian:
		return "debian:" + m.Suite + "/" + m.Source + "=" + m.Version
	}
	return m.URL
}

// validURL says whether s is a URL of one of the schemes, with a host and
// without a fragment or a password.
func validURL(s string, schemes ...string) bool {
	u, err := url.Parse(s)
	if err != nil || !slices.Contains(schemes, u.Scheme) || u.Hostname() == "" || u.Fragment != "" || !validWord(s) {
		return false
	}
	_, password := u.User.Password()
	return u.User == nil || u.Scheme == "ssh" && !password
}

// ValidRepository says whether s is the URL of a git repository: https, or ssh
// with or without a user.
func ValidRepository(s string) bool { return validURL(s, "https", "ssh") }

// ValidCommit says whether s is the whole name of a git commit.
func ValidCommit(s string) bool { return commit.MatchString(s) }

// ValidRelative says whether s is a clean path that may begin with "../".
func ValidRelative(s string) bool {
	return validWord(s) && path.Clean(s) == s && !path.IsAbs(s) && s[0] != '-'
}

var (
	// debianVersion is the character set of Debian policy 5.6.12, with the
	// epoch's colon.
	debianVersion = regexp.MustCompile(`^[0-9][A-Za-z0-9.+~:-]{0,127}$`)
	name          = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{0,127}$`)
	packageWord   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_+.~-]{0,127}$`)
	commit        = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	goVersion     = regexp.MustCompile(`^go1\.[0-9]{1,4}(\.[0-9]{1,4}|rc[0-9]{1,2})?$`)
)

func validName(s string) bool { return name.MatchString(s) }

// validWord says whether s is printable ASCII without spaces, quotes and
// backslashes, 1 to 1024 bytes: fit for file names, argument lists and
// messages.
func validWord(s string) bool {
	if s == "" || len(s) > 1024 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`"'\`+"`", c) >= 0 {
			return false
		}
	}
	return true
}

// validPath says whether s is clean, relative and stays below where it starts.
func validPath(s string) bool {
	return path.Clean(s) == s && !path.IsAbs(s) && s != "." && s != ".." && !strings.HasPrefix(s, "../") && s[0] != '-'
}

func validSum(s string) bool {
	b64, ok := strings.CutPrefix(s, "h1:")
	if !ok {
		return false
	}
	b, err := base64.StdEncoding.Strict().DecodeString(b64)
	return err == nil && len(b) == 32
}
