package lock

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/internal/strictjson"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/remedy"
)

// FileName is the lock's name beside the recipe.
const FileName = "sovereign.lock"

// Load reads the lock at path. A missing file satisfies fs.ErrNotExist.
func Load(path string) (*Lock, error) {
	f, err := Open(path)
	if err != nil {
		return nil, err
	}
	return f.lock, nil
}

// read returns the text of the lock at path, and what it says.
func read(path string) ([]byte, *Lock, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, remedy.By(remedy.Remedy{Kind: remedy.Lock}, fault.Errorf(fault.Usage, "no lock: %w", err).Hintf("make one"))
	}
	if err != nil {
		return nil, nil, fault.Errorf(fault.Usage, "lock: %w", err)
	}
	defer f.Close() // only read
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, nil, fault.Errorf(fault.Environment, "lock %s: %w", path, err)
	}
	l, err := Parse(path, data)
	return data, l, err
}

// maxFile bounds a lock; a real one with 300 packages is under 100 KiB.
const maxFile = 8 << 20

// Parse reads a lock of at most 8 MiB. Errors begin with file, which becomes
// Path.
func Parse(file string, data []byte) (*Lock, error) {
	if len(data) > maxFile {
		return nil, fault.Errorf(fault.Usage, "%s: larger than %d bytes", file, maxFile)
	}
	l := new(Lock)
	d, err := strictjson.Decode(strictjson.File{Name: file, Data: data, What: "lock",
		Hint: "mend the file, or remove it and make a new one"}, l)
	if err != nil {
		return nil, remedy.By(remedy.Remedy{Kind: remedy.Lock}, err)
	}
	if bad := l.check(); bad != nil {
		return nil, remedy.By(remedy.Remedy{Kind: remedy.Lock}, d.Errorf(bad.path, "%w", bad.err))
	}
	l.sort()
	l.Path = file
	return l, nil
}

// Marshal is the lock's one and only text: sorted, indented by two spaces,
// with a final newline. A value that Load would refuse is fault.Internal.
func (l *Lock) Marshal() ([]byte, error) {
	c := l.Clone()
	c.Schema = cmp.Or(c.Schema, Schema)
	c.sort()
	if bad := c.check(); bad != nil {
		return nil, fault.Errorf(fault.Internal, "lock: %w", bad)
	}
	// An absent list is written as [], which is what Load wants.
	c.Sources = nonNil(c.Sources)
	c.Toolchain.Packages = nonNil(c.Toolchain.Packages)
	c.Go.Modules = nonNil(c.Go.Modules)
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(c); err != nil {
		return nil, fault.Errorf(fault.Internal, "lock: %w", err)
	}
	return b.Bytes(), nil
}

func (l *Lock) sort() {
	slices.SortFunc(l.Sources, func(a, b Source) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(l.Toolchain.Packages, func(a, b DebPackage) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Arch, b.Arch))
	})
	for _, packages := range [][]Package{l.Packages, l.Released} {
		slices.SortFunc(packages, func(a, b Package) int { return strings.Compare(a.File(), b.File()) })
	}
	slices.SortFunc(l.Go.Modules, func(a, b Module) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Version, b.Version))
	})
}

func nonNil[E any](s []E) []E {
	if s == nil {
		return []E{}
	}
	return s
}

// maxDate is the largest source date, in the year 2242: EROFS, tar and apk
// all hold it.
const maxDate = 1 << 33

func validDate(s int64) bool { return s >= 1 && s <= maxDate }

// SourceDate is the time stamp of artifacts in seconds since 1970: env, the
// value of SOURCE_DATE_EPOCH, or the lock's own date if env is empty. A
// malformed env is fault.Usage.
func SourceDate(l *Lock, env string) (int64, error) {
	if env == "" {
		return l.SourceDate, nil
	}
	v, err := strconv.ParseInt(env, 10, 64)
	if err != nil || !validDate(v) {
		return 0, fault.Errorf(fault.Usage, "SOURCE_DATE_EPOCH=%q is not a number of seconds from 1 to %d", env, maxDate).
			Hintf("unset SOURCE_DATE_EPOCH, or set it to a time such as the one of git log -1 --format=%%ct")
	}
	return v, nil
}
