package cve

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/mod/semver"

	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// Limits of a database: exports of all of Debian have 60,000 records, the
// tracker's file 80 MB.
const (
	maxRecord   = 16 << 20
	maxRecords  = 2_000_000
	maxDatabase = 2 << 30
)

// read reads a database, whatever form it has.
func (a *auditor) read(ctx context.Context, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fault.Wrap(fault.Usage, err)
	}
	switch {
	case info.IsDir():
		return a.readDir(ctx, path)
	case info.Size() > maxDatabase:
		return fault.Errorf(fault.Usage, "%s of %d bytes is larger than %d", path, info.Size(), int64(maxDatabase))
	}
	f, err := os.Open(path)
	if err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	if z, err := zip.NewReader(f, info.Size()); err == nil {
		return a.readZip(ctx, path, z)
	}
	return a.readJSON(ctx, path, bufio.NewReaderSize(f, 1<<20))
}

func (a *auditor) readDir(ctx context.Context, dir string) error {
	n := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".json") {
			return err
		}
		if n++; n > maxRecords {
			return fault.Errorf(fault.Usage, "%s: more than %d records", dir, maxRecords)
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		text, err := readFile(path, maxRecord)
		if err != nil {
			return err
		}
		return a.record(path, text)
	})
	if err == nil && n == 0 {
		err = fault.Errorf(fault.Usage, "%s has no *.json, and is no export of OSV", dir)
	}
	return err
}

func (a *auditor) readZip(ctx context.Context, path string, z *zip.Reader) error {
	if len(z.File) > maxRecords {
		return fault.Errorf(fault.Usage, "%s: more than %d records", path, maxRecords)
	}
	for _, f := range z.File {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if !strings.HasSuffix(f.Name, ".json") {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return fault.Errorf(fault.Usage, "%s: %s: %w", path, f.Name, err)
		}
		text, err := io.ReadAll(io.LimitReader(r, maxRecord+1))
		if err = errors.Join(err, r.Close()); err == nil && len(text) > maxRecord {
			err = fmt.Errorf("larger than %d bytes", maxRecord)
		}
		if err == nil {
			err = a.record(f.Name, text)
		}
		if err != nil {
			return fault.Errorf(fault.Usage, "%s: %s: %w", path, f.Name, err)
		}
	}
	return nil
}

// readJSON reads one file: a record of OSV, a list of them, or Debian's tracker.
func (a *auditor) readJSON(ctx context.Context, path string, r *bufio.Reader) error {
	bad := func(err error) error {
		return fault.Errorf(fault.Usage, "%s is neither an export of OSV nor of Debian's security tracker: %w", path, err)
	}
	first, err := firstByte(r)
	if err != nil {
		return bad(err)
	}
	d := json.NewDecoder(r)
	if _, err := d.Token(); err != nil {
		return bad(err)
	}
	switch first {
	case '[':
		for n := 0; d.More(); n++ {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			var text json.RawMessage
			if err := d.Decode(&text); err != nil || n > maxRecords {
				return bad(cmpErr(err, "too many records"))
			}
			if err := a.record(path, text); err != nil {
				return err
			}
		}
		return nil
	case '{':
		return a.object(ctx, path, d, bad)
	}
	return bad(fmt.Errorf("it begins with %q", first))
}

func cmpErr(err error, text string) error {
	if err != nil {
		return err
	}
	return errors.New(text)
}

func firstByte(r *bufio.Reader) (byte, error) {
	for {
		b, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		if !unicode.IsSpace(rune(b)) {
			return b, r.UnreadByte()
		}
	}
}

// object reads the rest of an object: of the tracker, whose keys are source
// packages, or of one record of OSV.
func (a *auditor) object(ctx context.Context, path string, d *json.Decoder, bad func(error) error) error {
	members := map[string]json.RawMessage{}
	osv := false
	for n := 0; d.More(); n++ {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		key, err := d.Token()
		if err != nil {
			return bad(err)
		}
		name, _ := key.(string)
		var value json.RawMessage
		if err := d.Decode(&value); err != nil || n > maxRecords {
			return bad(cmpErr(err, "too many keys"))
		}
		// A record has text where the tracker has objects.
		if len(value) > 0 && value[0] != '{' || osv {
			osv = true
			members[name] = value
			continue
		}
		if err := a.tracker(path, name, value); err != nil {
			return err
		}
	}
	if !osv {
		return nil
	}
	text, err := json.Marshal(members)
	if err != nil {
		return bad(err)
	}
	return a.record(path, text)
}

// trackerEntry is what Debian's tracker says of a hole of a source package.
type trackerEntry struct {
	Releases map[string]struct {
		Status       string `json:"status"`
		FixedVersion string `json:"fixed_version"`
		Urgency      string `json:"urgency"`
	} `json:"releases"`
}

func (a *auditor) tracker(path, name string, text []byte) error {
	for _, t := range a.targets {
		if t.debian != name || name == "" {
			continue
		}
		var holes map[string]trackerEntry
		if err := json.Unmarshal(text, &holes); err != nil {
			return fault.Errorf(fault.Usage, "%s: %s: %w", path, name, err)
		}
		for id, h := range holes {
			a.report.Records++
			f := Finding{ID: id, Component: t.component.Name, Version: t.component.Version, PURL: t.component.PURL, Status: Fixed}
			// The first release of Debian's that fixed it by a version of
			// upstream's shows which that is.
			for _, release := range sortedKeys(h.Releases) {
				r := h.Releases[release]
				switch {
				case r.Status == "resolved" && r.FixedVersion == "0":
					f.Why = "no version of " + release + " ever had it"
				case r.Status == "resolved" && hasFix(t.component.Version, r.FixedVersion):
					f.Status, f.FixedIn, f.Why = Fixed, r.FixedVersion, ""
				case r.Status == "resolved":
					if f.Status == Fixed && f.FixedIn != "" && hasFix(t.component.Version, f.FixedIn) {
						continue
					}
					f.Status, f.FixedIn = Affected, r.FixedVersion
					f.Why = "fixed by " + r.FixedVersion + " in " + release
				case r.Status == "open" && f.FixedIn == "":
					f.Status, f.Why = Affected, "open in "+release
				case r.Status == "undetermined" && f.FixedIn == "" && f.Status == Fixed:
					f.Status, f.Why = Unknown, "nobody has looked yet"
				}
				if r.Urgency == "unimportant" && f.Status == Affected && !strings.Contains(f.Why, "unimportant") {
					f.Why += "; unimportant, says Debian"
				}
			}
			a.find(f)
		}
	}
	return nil
}

// hasFix says whether upstream's version has what a version of Debian's fixes.
// A revision above 1 is a patch of Debian's, which is not in upstream's bytes.
func hasFix(upstream, fixed string) bool {
	_, ours, _ := source.SplitVersion(upstream)
	_, theirs, revision := source.SplitVersion(fixed)
	// Debian's own marks of a repacked source: 1.3.dfsg+really1.3.1, 19.1.7+ds.
	if _, really, ok := strings.Cut(theirs, "+really"); ok {
		theirs = really
	}
	for _, mark := range []string{".dfsg", "+dfsg", "~dfsg", "+ds", "+repack"} {
		theirs, _, _ = strings.Cut(theirs, mark)
	}
	switch c := source.CompareVersions(ours, theirs); {
	case c != 0:
		return c > 0
	default:
		return revision == "" || revision == "1" || strings.HasPrefix(revision, "1~") || strings.HasPrefix(revision, "0")
	}
}

// osvRecord is a record of OSV: https://ossf.github.io/osv-schema/.
type osvRecord struct {
	ID        string        `json:"id"`
	Aliases   []string      `json:"aliases"`
	Upstream  []string      `json:"upstream"`
	Withdrawn string        `json:"withdrawn"`
	Affected  []osvAffected `json:"affected"`
}

type osvAffected struct {
	Package struct {
		Ecosystem string `json:"ecosystem"`
		Name      string `json:"name"`
	} `json:"package"`
	Ranges []struct {
		Type   string              `json:"type"`
		Events []map[string]string `json:"events"`
	} `json:"ranges"`
	Versions []string `json:"versions"`
}

func (a *auditor) record(path string, text []byte) error {
	// Most records are about something else; only those that name one of ours
	// are worth reading.
	if !slices.ContainsFunc(a.targets, func(t target) bool {
		return t.debian != "" && bytes.Contains(text, []byte(t.debian)) || t.module != "" && bytes.Contains(text, []byte(t.module)) ||
			t.alpine != "" && bytes.Contains(text, []byte(t.alpine)) || t.kernel && bytes.Contains(text, []byte(`Kernel`))
	}) {
		return nil
	}
	var r osvRecord
	if err := json.Unmarshal(text, &r); err != nil {
		return fault.Errorf(fault.Usage, "%s: %w", path, err)
	}
	if r.ID == "" || r.Withdrawn != "" {
		return nil
	}
	for _, v := range r.Affected {
		for _, t := range a.targets {
			compare, fixed := t.matches(v)
			if compare == nil {
				continue
			}
			a.report.Records++
			f := Finding{ID: r.ID, Component: t.component.Name, Version: t.component.Version, PURL: t.component.PURL, Status: Fixed}
			f.Aliases = slices.Concat(r.Aliases, r.Upstream)
			slices.Sort(f.Aliases)
			f.Aliases = slices.Compact(f.Aliases)
			if i := slices.IndexFunc(f.Aliases, func(s string) bool { return strings.HasPrefix(s, "CVE-") }); i >= 0 && !strings.HasPrefix(f.ID, "CVE-") {
				f.Aliases[i], f.ID = f.ID, f.Aliases[i]
			}
			hit := slices.Contains(v.Versions, t.component.Version)
			for _, g := range v.Ranges {
				if g.Type == "GIT" {
					continue
				}
				in, to := within(t.component.Version, g.Events, compare, fixed)
				if in {
					hit, f.FixedIn = true, to
				}
			}
			if hit {
				f.Status, f.Why = Affected, "of "+v.Package.Ecosystem
				if f.FixedIn != "" {
					f.Why = "fixed by " + f.FixedIn + " in " + v.Package.Ecosystem
				}
			}
			a.find(f)
		}
	}
	return nil
}

// matches says how versions compare where a record is about the component, nil
// where it is about another. fixed says whether a version has the fix of one.
func (t target) matches(v osvAffected) (compare func(a, b string) int, fixed func(version, fix string) bool) {
	ecosystem, _, _ := strings.Cut(v.Package.Ecosystem, ":")
	switch {
	case ecosystem == "Debian" && t.debian != "" && v.Package.Name == t.debian:
		return source.CompareVersions, hasFix
	case ecosystem == "Linux" && t.kernel && v.Package.Name == "Kernel":
		compare = source.CompareVersions
	case ecosystem == "Go" && t.module != "" && v.Package.Name == t.module:
		compare = compareSemver
	case ecosystem == "Alpine" && t.alpine != "" && v.Package.Name == t.alpine:
		compare = apk.CompareVersions
	default:
		return nil, nil
	}
	return compare, func(version, fix string) bool { return compare(version, fix) >= 0 }
}

func compareSemver(a, b string) int {
	return semver.Compare("v"+strings.TrimPrefix(a, "v"), "v"+strings.TrimPrefix(b, "v"))
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// within says whether a version is in a range, and where that ends.
func within(version string, events []map[string]string, compare func(a, b string) int, fixed func(version, fix string) bool) (in bool, end string) {
	type event struct{ kind, version string }
	var all []event
	for _, e := range events {
		for _, kind := range []string{"introduced", "fixed", "last_affected"} {
			if v, ok := e[kind]; ok {
				all = append(all, event{kind, v})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b event) int {
		switch { // "0" is before every version, also for those who compare letters
		case a.version == b.version:
			return 0
		case a.version == "0":
			return -1
		case b.version == "0":
			return 1
		}
		return compare(a.version, b.version)
	})
	for _, e := range all {
		switch e.kind {
		case "introduced":
			if e.version == "0" || compare(version, e.version) >= 0 {
				in, end = true, ""
			}
		case "fixed":
			if fixed(version, e.version) {
				in = false
			} else if in && end == "" {
				end = e.version
			}
		case "last_affected":
			if compare(version, e.version) > 0 {
				in = false
			}
		}
	}
	return in, end
}
