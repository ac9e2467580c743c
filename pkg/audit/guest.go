package audit

import (
	"fmt"
	"path"
	"strings"
)

const (
	// minStack is what PostgreSQL's max_stack_depth of 2 MB asks of a thread;
	// musl gives 128 KiB where no program header says more.
	minStack = 2 << 20
	// minICUData is far below the full data (32 MB of ICU 76) and far above what
	// distributions call icu-data-en (1 to 3 MB).
	minICUData = 20 << 20
	// minICUCollations is below the 871 that initdb makes of the full data, and
	// above the few that it makes of another's.
	minICUCollations = 500
)

// threadStacks is about musl: a program's threads have the stack that its
// header PT_GNU_STACK asks for, and 128 KiB where it asks for none. No
// environment variable changes that.
func threadStacks(f *Facts) verdict {
	k := f.Image.Programs
	if !k.Seen {
		return notSeen("the programs", k)
	}
	var bad []string
	judged, of := 0, 0
	smallest := Program{}
	for _, p := range k.Value {
		if !p.Executable {
			continue
		}
		of++
		if p.Go { // makes the stacks of its threads itself
			continue
		}
		if judged++; judged == 1 || p.Stack < smallest.Stack {
			smallest = p
		}
		switch {
		case !p.Header:
			bad = append(bad, p.Path+" (no PT_GNU_STACK)")
		case p.Stack < minStack:
			bad = append(bad, fmt.Sprintf("%s (%d KiB)", p.Path, p.Stack>>10))
		case p.ExecStack:
			bad = append(bad, p.Path+" (an executable stack)")
		}
	}
	seen := fmt.Sprintf("%d programs, %d of them with stacks of musl's", of, judged)
	switch {
	case of == 0:
		return unproven("", "no program was found, which no image is without")
	case len(bad) > 0:
		return failed(seen, "less than 2 MiB for threads: %s", few(bad)).
			by(Rebuild, "link each with -Wl,-z,stack-size=2097152 -Wl,-z,noexecstack")
	case judged == 0:
		return inapplicable(seen, "all programs are Go's, which makes the stacks of its threads itself")
	}
	return proven("%s; the smallest is %d KiB, of %s", seen, smallest.Stack>>10, smallest.Path)
}

// collation is about musl's strcoll, which compares bytes whatever the locale
// is called.
func collation(f *Facts) verdict {
	if v, none := f.withoutPostgreSQL(); none {
		return v
	}
	if f.Machine == nil {
		k := f.Image.Programs
		if !k.Seen {
			return notSeen("the programs", k)
		}
		for _, p := range k.Value {
			if path.Base(p.Path) != "postgres" {
				continue
			}
			for _, lib := range p.Needed {
				if strings.HasPrefix(lib, "libicui18n.so") {
					return needsRun(p.Path + " is linked with " + lib)
				}
			}
			return failed(p.Path+" needs "+few(p.Needed), "it was built without ICU, so that musl compares bytes").
				by(Rebuild, "configure PostgreSQL with --with-icu")
		}
		return unproven("", "no program postgres is in the image")
	}
	d := f.Machine.Database
	if !d.Seen {
		return notSeen("PostgreSQL", d)
	}
	if !d.Value.Sorted {
		return failed("'a' < 'B' and 'ä' < 'z' is false", "the database sorts by bytes, as musl's and C's collations do").
			by(Rebuild, "make the cluster anew with --locale-provider=icu, from a dump")
	}
	return proven("'a' < 'B' and 'ä' < 'z' in the order of the database")
}

// icuData is about packages of ICU with the data of English alone, with which
// every other language silently sorts by ICU's root order.
func icuData(f *Facts) verdict {
	if v, none := f.withoutPostgreSQL(); none {
		return v
	}
	const mend = "put the package icu-data-full into the recipe"
	k := f.Image.ICUData
	if !k.Seen {
		return notSeen("ICU's data", k)
	}
	var files []string
	full := false
	for _, file := range k.Value {
		files = append(files, fmt.Sprintf("%s of %d MiB", file.Path, file.Size>>20))
		full = full || file.Size >= minICUData
	}
	seen := few(files)
	switch {
	case !full && len(files) == 0:
		return failed("no icudt*.dat", "ICU's data are not in the image").by(Rebuild, mend)
	case !full:
		return failed(seen, "these are not the data of all languages").by(Rebuild, mend)
	case f.Machine == nil && !f.has("icu-data-full"):
		return failed(seen, "the manifest has no package icu-data-full").by(Rebuild, mend)
	case f.Machine == nil:
		return proven("the package icu-data-full, %s", seen)
	}
	d := f.Machine.Database
	if !d.Seen {
		return notSeen("PostgreSQL", d)
	}
	seen += fmt.Sprintf("; %d collations of ICU", d.Value.ICUCollations)
	switch s := d.Value.Swedish; {
	case d.Value.ICUCollations < minICUCollations:
		return failed(seen, "the full data have more than %d", minICUCollations).by(Rebuild, mend+", and make the cluster anew from a dump")
	case !s.Seen:
		return failed(seen, "no order of sv-SE: %s", s.why()).by(Rebuild, mend)
	case !s.Value:
		return failed(seen, "ö comes before z in sv-SE: the server does not have the data of Swedish").by(Rebuild, mend)
	}
	return proven("%s; ö comes after z in sv-SE", seen)
}
