package build

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/build/sums"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/remedy"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// SumsMode is what a build does with the sums beside its recipe.
type SumsMode int

const (
	// SumsCompare compares where there are sums and tells of differences.
	SumsCompare SumsMode = iota
	// SumsCheck makes a difference, or sums that are not there, an error of
	// class fault.Differ.
	SumsCheck
	// SumsWrite puts what the build made into the file.
	SumsWrite
)

// Sums is how a build compares with the sums beside its recipe.
type Sums struct {
	// Path is the file.
	Path string `json:"path"`
	// Outputs is how many outputs were compared or written.
	Outputs int `json:"outputs"`
	// Differences are in the order in which the outputs were made: the first
	// is where to look.
	Differences []sums.Difference `json:"differences,omitempty"`
}

// maxSums bounds sovereign.sums; a real one is under 100 KiB.
const maxSums = 8 << 20

// made notes what a step made, for the sums: one that every build of the recipe
// goes through, and these are of an architecture. What an input is unpacked to
// (the Go toolchain) is only made where a step that needs it runs.
func (b *Builder) made(step, key string, out outputs) {
	if !strings.HasSuffix(step, " "+b.arch.Go) && !strings.HasSuffix(step, " "+apk.NoArch) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range sortedKeys(out) {
		// The packages' own words are in the packages too.
		if name != metasOutput {
			b.sums = append(b.sums, sums.Sum{Step: step, Output: name, Key: key[:sums.KeyLength], Digest: out[name]})
		}
	}
}

// checkSums compares what the steps made with the sums beside the recipe, or
// writes them. A build with another time stamp, or with inputs from outside the
// lock, is not comparable.
func (b *Builder) checkSums() error {
	file := b.recipe.Resolve(sums.File)
	path := file.String()
	var why string
	switch {
	case b.epoch != b.lock.SourceDate:
		why = "its time stamp is not the lock's"
	case len(b.opts.repositories) > 0 || b.opts.files != nil:
		why = "it has inputs from outside the lock"
	}
	if why != "" {
		if b.opts.sums == SumsCompare {
			return nil
		}
		return fault.Errorf(fault.Usage, "%s: this build has no part in it: %s", path, why)
	}
	if changed := b.lock.Changed(); len(changed) > 0 && b.opts.sums != SumsWrite {
		b.tell(SumsSkipped{path, changed})
		return nil
	}
	text, err := file.ReadFile(maxSums)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case missing && b.opts.sums == SumsCompare:
		return nil
	case missing && b.opts.sums == SumsCheck:
		return remedy.By(remedy.Remedy{Kind: remedy.WriteSums, Recipe: b.recipe.Dir},
			fault.Errorf(fault.Differ, "there is no %s to compare with", path).Hintf("write it once"))
	case err != nil && !missing:
		return fault.Wrap(fault.Environment, err)
	}
	known, err := sums.Parse(path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	all := b.sumsOfAll()
	if b.opts.sums != SumsWrite && !sums.Has(known, b.arch.Go) {
		b.tell(SumsLacking{path, b.arch.Go})
		return nil
	}
	b.result.Sums = &Sums{Path: path, Outputs: len(all)}
	if b.opts.sums == SumsWrite {
		if _, ok := file.OnDisk(); !ok {
			return fault.Errorf(fault.Usage, "%s: the recipe is not on this machine's disk, where its sums could be written", path)
		}
		return atomicfile.Write(path, sums.Format(sums.Merge(known, all, b.arch.Go)), 0o644)
	}
	differences := sums.Compare(known, all, b.arch.Go)
	b.result.Sums.Differences = differences
	if len(differences) == 0 {
		return nil
	}
	differ := &SumsError{b.result.Sums}
	if b.opts.sums == SumsCheck {
		return remedy.By(remedy.Remedy{Kind: remedy.WriteSums, Recipe: b.recipe.Dir}, fault.Errorf(fault.Differ, "%w", differ).
			Hintf("something of this machine got into the step; or, where inputs were changed on purpose, write the sums anew"))
	}
	b.tell(differ.event())
	return nil
}

// SumsError is the error of a build that made other things than the sums say.
type SumsError struct{ *Sums }

// event is the same of a build that goes on.
func (e *SumsError) event() SumsDiffer {
	return SumsDiffer{e.Path, e.Differences[0], len(e.Differences)}
}

// Error names the first output that differs: the others may follow from it.
func (e *SumsError) Error() string { return e.event().String() }

// Findings are the outputs, for programs.
func (e *SumsError) Findings() any { return e.Differences }

// sumsOfAll adds the bundle to what the steps made: its key is that of all
// steps.
func (b *Builder) sumsOfAll() []sums.Sum {
	b.mu.Lock()
	defer b.mu.Unlock()
	var keys []string
	for _, s := range b.sums {
		keys = append(keys, s.Step+" "+s.Key)
	}
	slices.Sort(keys)
	key := sha256.Sum256([]byte(strings.Join(slices.Compact(keys), "\n")))
	return append(slices.Clone(b.sums), sums.Sum{
		Step: "bundle " + b.recipe.Name + " " + b.arch.Go, Output: "manifest.json",
		Key: fmt.Sprintf("%x", key)[:sums.KeyLength], Digest: b.manifest,
	})
}
