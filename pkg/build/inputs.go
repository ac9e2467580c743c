package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/source"
	"github.com/sovereign-build/sovereign/pkg/build/toolchain"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// newFetcher makes the fetcher and passes its events on.
func (b *Builder) newFetcher() (*source.Fetcher, error) {
	return source.New(append([]source.Option{
		source.WithStore(b.store),
		source.WithCacheDir(b.opts.cacheDir),
		source.WithOffline(b.opts.offline),
		source.WithMirrors(b.opts.mirrors),
		source.WithProgress(func(e source.Event) {
			switch e.Kind {
			case source.Retried:
				b.tell(FetchRetried{e.Name, e.Message})
			case source.Finished:
				b.tell(Fetched{e.Name, e.Done})
			case source.Progressed:
				b.tell(Fetching{e.Name, e.Mirror, e.Done, e.Total})
			}
		}),
	}, b.opts.fetch...)...)
}

// relocking runs a build, and, if the options say so, once more with another
// lock whenever an input is missing: once for each input.
func (b *Builder) relocking(ctx context.Context, run func(context.Context) error) error {
	for {
		err := run(ctx)
		var missing *source.MissingError
		if !b.opts.relockMissing || b.planning || !errors.As(err, &missing) {
			return err
		}
		for _, name := range missing.Names {
			if b.relocked[name] {
				return fmt.Errorf("%w; %s was locked anew once already", err, name)
			}
		}
		if rerr := b.relock(ctx, missing.Names); rerr != nil {
			return fmt.Errorf("%w; it had to be locked anew: %w", rerr, err)
		}
	}
}

// relock locks other versions of inputs that every mirror says it does not
// have, and says so. Packages are locked by the build itself,
// when it needs them.
func (b *Builder) relock(ctx context.Context, names []string) error {
	if b.relocked == nil {
		b.relocked = map[string]bool{}
	}
	for _, name := range names {
		b.relocked[name] = true
	}
	if i := slices.Index(names, lock.PackagesName); i >= 0 {
		b.repin = true
		names = slices.Delete(slices.Clone(names), i, i+1)
	}
	if len(names) == 0 {
		return nil
	}
	declared, err := b.declared()
	if err != nil {
		return err
	}
	updated, err := b.fetcher.Relock(ctx, b.lock, declared, names)
	if err != nil {
		return err
	}
	if err := b.relockTo(updated.Lock); err != nil {
		return err
	}
	for _, c := range updated.Changes {
		b.tell(InputRelocked{c})
	}
	for _, n := range updated.Notes {
		b.tell(LockRemark{n})
	}
	return nil
}

// goVersion is the Go toolchain a new lock pins for the image's programs: the
// one this module's go.mod asks for, or newer.
const goVersion = "go1.26.8"

// firstSourceDate is the date of a lock made from nothing: 2026-01-01. A date
// is only a name for a state of the inputs; a lock's author may choose another
// by hand.
const firstSourceDate = 1767225600

// declared is what the recipe's files say of its inputs.
func (b *Builder) declared() (source.Declared, error) {
	d := source.Declared{Sources: b.decls, Go: goVersion, SourceDate: firstSourceDate}
	if b.recipe.Toolchain == "" {
		return d, nil
	}
	file := b.recipe.Resolve(b.recipe.Toolchain).Join(toolchain.SpecFile)
	text, err := file.ReadFile(toolchain.MaxSpec)
	if err != nil {
		return d, fault.Errorf(fault.Usage, "toolchain image: %w", err).Hintf("check the recipe's toolchain directory")
	}
	image, err := toolchain.ParseSpec(file.String(), text)
	d.ToolchainSuite, d.ToolchainPackages = image.Suite, image.Packages
	return d, err
}

// goToolchainSum is the h1 sum of the Go toolchain the image's programs are
// compiled with: that for the machine the toolchain image is of.
func goToolchainSum(l *lock.Lock) (string, error) {
	for _, m := range l.Go.Modules {
		if strings.HasSuffix(m.Version, ".linux-amd64") {
			return m.Sum, nil
		}
	}
	return "", lock.NotLocked(lock.GoName, "", fault.Errorf(fault.Usage, "the lock has no Go toolchain for linux-amd64"))
}

// keyName is in the name of every signature this machine's key makes.
const keyName = "sovereign-local"

// signingKey is the user's own key, made where it is not there and make says
// so; else that is fs.ErrNotExist. It signs the packages and the index of the
// exported repository; no image holds it, so that images are the same whoever
// builds them.
func signingKey(make bool) (*apk.SigningKey, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return nil, fault.Errorf(fault.Environment, "no configuration directory for the signing key: %w", err).
			Hintf("set HOME or XDG_CONFIG_HOME")
	}
	dir = filepath.Join(dir, "sovereign", "keys")
	path := filepath.Join(dir, keyName+".rsa")
	if _, err := os.Stat(path); err == nil {
		return apk.LoadKey(path)
	} else if !make {
		return nil, fault.Wrap(fault.Environment, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	key, err := apk.GenerateKey(keyName)
	if err != nil {
		return nil, err
	}
	_, err = key.Save(dir)
	return key, err
}
