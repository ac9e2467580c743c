package source

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	maxStanza = 4 << 20 // bytes; the longest in Debian's indexes is 1.2 MiB (linux)
	maxLine   = 1 << 20
)

// archive is one Debian archive the machine's apt is set up for.
type archive struct {
	URI      string // without trailing slash
	SignedBy string // a path, fingerprints, or an embedded key with its line breaks
	Trusted  string
	Security bool // a security archive: its suites are named SUITE-security
	Updates  bool // the machine also takes SUITE-updates from it
}

// stanza is one paragraph of a deb822 file: keys in lower case. A value over
// several lines keeps its line breaks.
type stanza map[string]string

// eachStanza calls fn for every stanza of r until fn returns an error.
func eachStanza(r io.Reader, fn func(stanza) error) error {
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 64<<10), maxLine)
	s, size, last := stanza{}, 0, ""
	var value strings.Builder // of the key last
	end := func() {
		if last != "" {
			s[last] = value.String()
		}
		value.Reset()
	}
	flush := func() error {
		end()
		if len(s) == 0 {
			return nil
		}
		done := s
		s, size, last = stanza{}, 0, ""
		return fn(done)
	}
	for n := 1; in.Scan(); n++ {
		line := strings.TrimRight(in.Text(), " \t\r")
		size += len(line)
		if size > maxStanza {
			return fmt.Errorf("line %d: a paragraph of more than %d bytes", n, maxStanza)
		}
		switch {
		case line == "":
			if err := flush(); err != nil {
				return err
			}
		case line[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			if last == "" {
				return fmt.Errorf("line %d: a continuation of nothing", n)
			}
			value.WriteString("\n" + line)
		default:
			key, first, ok := strings.Cut(line, ":")
			key = strings.ToLower(strings.TrimSpace(key))
			if !ok || key == "" {
				return fmt.Errorf("line %d: %.40q is not KEY: VALUE", n, line)
			}
			end()
			last = key
			value.WriteString(strings.TrimSpace(first))
		}
	}
	if err := in.Err(); err != nil {
		return err
	}
	return flush()
}

// parseSources reads a deb822 file of apt's, such as debian.sources.
func parseSources(r io.Reader) ([]archive, error) {
	var out []archive
	err := eachStanza(r, func(s stanza) error {
		if no(s["enabled"]) {
			return nil
		}
		for _, uri := range strings.Fields(s["uris"]) {
			if a, ok := debianArchive(uri, strings.Fields(s["suites"]), strings.Fields(s["components"])); ok {
				a.SignedBy, a.Trusted = s["signed-by"], s["trusted"]
				out = append(out, a)
			}
		}
		return nil
	})
	return out, err
}

// no is how apt reads a Boolean that is off.
func no(s string) bool {
	return slices.Contains([]string{"no", "false", "without", "off", "disable", "0"}, strings.ToLower(s))
}

// parseSourcesList reads the one-line form: deb [signed-by=…] URI SUITE main.
func parseSourcesList(r io.Reader) ([]archive, error) {
	var out []archive
	in := bufio.NewScanner(r)
	in.Buffer(make([]byte, 64<<10), maxLine)
	for in.Scan() {
		line, _, _ := strings.Cut(in.Text(), "#")
		kind, rest, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(line, "\t", " ")), " ")
		if kind != "deb" && kind != "deb-src" {
			continue
		}
		rest = strings.TrimSpace(rest)
		options := ""
		if strings.HasPrefix(rest, "[") {
			var ok bool
			if options, rest, ok = strings.Cut(rest[1:], "]"); !ok {
				continue // apt refuses the line too
			}
		}
		words := strings.Fields(rest)
		if len(words) < 3 {
			continue
		}
		a, ok := debianArchive(words[0], words[1:2], words[2:])
		if !ok {
			continue
		}
		for _, o := range strings.Fields(options) {
			switch key, value, _ := strings.Cut(o, "="); strings.ToLower(key) {
			case "signed-by":
				a.SignedBy = strings.ReplaceAll(value, ",", " ")
			case "trusted":
				a.Trusted = value
			}
		}
		out = append(out, a)
	}
	return out, in.Err()
}

// debianArchive says whether an apt source is Debian's own archive, whatever
// mirror it comes from: a Debian suite with the component main. Third parties
// use suites or components of their own.
func debianArchive(uri string, suites, components []string) (archive, bool) {
	uri = strings.TrimRight(uri, "/")
	u, err := url.Parse(uri)
	if err != nil || u.Scheme == "" || u.Scheme == "cdrom" || u.Fragment != "" || strings.ContainsAny(uri, " \t\r\n'\"") || !slices.Contains(components, "main") {
		return archive{}, false
	}
	a := archive{URI: uri}
	ok := false
	for _, s := range suites {
		if old, ok := strings.CutSuffix(s, "/updates"); ok {
			s = old + "-security" // as it was named up to buster
		}
		base, variant, _ := strings.Cut(s, "-")
		if !slices.Contains(debianSuites(), base) {
			continue
		}
		switch variant {
		case "updates":
			a.Updates, ok = true, true
		case "", "backports", "proposed-updates":
			ok = true
		case "security":
			return archive{URI: uri, Security: true}, true
		}
	}
	return a, ok
}

// debianSuites is every suite a machine that builds today may be set up for.
func debianSuites() []string {
	return []string{"buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid",
		"oldoldstable", "oldstable", "stable", "testing", "unstable"}
}

// findArchives reads the apt sources below etc (/etc/apt), in apt's order, each
// archive once.
func findArchives(etc string) ([]archive, error) {
	files, err := filepath.Glob(filepath.Join(etc, "sources.list.d", "*"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var out []archive
	for _, name := range append([]string{filepath.Join(etc, "sources.list")}, files...) {
		var parse func(io.Reader) ([]archive, error)
		switch filepath.Ext(name) {
		case ".list":
			parse = parseSourcesList
		case ".sources":
			parse = parseSources
		default:
			continue
		}
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found, err := parse(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, found...)
	}
	var once []archive
	for _, a := range out {
		i := slices.IndexFunc(once, func(b archive) bool { return a.URI == b.URI && a.Security == b.Security })
		if i < 0 {
			once = append(once, a)
			continue
		}
		once[i].Updates = once[i].Updates || a.Updates // a list has a line for each suite
	}
	return once, nil
}

// text is the archive as a stanza of a private deb822 file, for one suite.
func (a archive) text(types, suite string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Types: %s\nURIs: %s\nSuites: %s\nComponents: main\n", types, a.URI, suite)
	if a.SignedBy != "" {
		fmt.Fprintf(&b, "Signed-By: %s\n", a.SignedBy)
	}
	if t := cmp.Or(a.Trusted, ""); t != "" {
		fmt.Fprintf(&b, "Trusted: %s\n", t)
	}
	return b.String()
}
