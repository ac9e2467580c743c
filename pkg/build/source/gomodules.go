package source

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"

	"github.com/sovereign-build/sovereign/pkg/arch"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// goArchs are the architectures whose builds the modules must serve.
func goArchs() []string { return arch.Built() }

// GoModules brings the modules of the Go module in dir into the store as one
// tar: a file tree for GOPROXY=file://…/cache/download with, for each module
// version, .info, .mod and, where it is needed to build, .zip and .ziphash.
// Names begin with "cache/download/"; the tar is the same for the same go.mod
// and go.sum wherever and whenever it is made.
//
// With packages ("./cmd/x") the modules are those that compiling these
// packages for linux takes, on each architecture, and dir must hold their
// source. A first "package" of the form "-tags=a,b" gives build tags; packages
// may also be those of other modules ("tailscale.com/cmd/tailscaled").
// Without packages, they are all those of go.mod for which go.sum has the hash
// of the zip; dir then needs go.mod and go.sum only.
//
// Every zip's hash is go.sum's. The call writes nothing into dir, and when
// nothing changed it runs nothing and needs no network.
func (f *Fetcher) GoModules(ctx context.Context, dir string, packages ...string) (store.Digest, error) {
	_, d, err := f.goModules(ctx, dir, packages)
	return d, err
}

// GoModulesAction is GoModules that returns the key of the action it is kept
// under, which another machine's store needs beside the tar to find it.
func (f *Fetcher) GoModulesAction(ctx context.Context, dir string, packages ...string) (string, store.Digest, error) {
	return f.goModules(ctx, dir, packages)
}

// goModulesFormat is in the description of every such action.
const goModulesFormat = "go-modules/1"

// IsInput says whether an action stands for an input of builds, such as the
// modules of a go.mod, and not for what a step made. An archive of inputs may
// hold the former; what they give is held against go.sum when it is compiled.
func IsInput(a store.Action) bool {
	var d struct {
		Format string `json:"format"`
	}
	return json.Unmarshal(a.Description, &d) == nil && d.Format == goModulesFormat
}

func (f *Fetcher) goModules(ctx context.Context, dir string, packages []string) (string, store.Digest, error) {
	mod, err := readSmall(filepath.Join(dir, "go.mod"))
	if err != nil {
		return "", "", err
	}
	sum, err := readSmall(filepath.Join(dir, "go.sum"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", "", err
	}
	main, err := modfile.Parse(filepath.Join(dir, "go.mod"), mod, nil)
	if err != nil {
		return "", "", fault.Wrap(fault.Usage, err)
	}
	name := "go modules"
	if main.Module != nil {
		name = "go modules of " + main.Module.Mod.Path
	}
	description := map[string]any{"format": goModulesFormat, "go.mod": store.FromBytes(mod), "go.sum": store.FromBytes(sum), "packages": packages}
	if len(packages) > 0 {
		// What is imported may change without go.mod changing.
		if description["source"], err = goSource(ctx, dir); err != nil {
			return "", "", err
		}
	}
	text, err := json.Marshal(description)
	if err != nil {
		return "", "", fault.Wrap(fault.Internal, err)
	}
	key := store.Key(text)
	if a, ok, err := f.store.Action(key); err != nil || ok {
		return key, a.Outputs["tar"], err
	}
	f.tell(Event{Kind: Started, Name: name})
	modCache := filepath.Join(f.cache, "gomod", key)
	unlock, err := lockFile(ctx, modCache+".lock")
	if err != nil {
		return "", "", err
	}
	defer unlock()
	if a, ok, err := f.store.Action(key); err != nil || ok {
		return key, a.Outputs["tar"], err // another process made it meanwhile
	}
	sums, err := parseGoSum(bytes.NewReader(sum))
	if err != nil {
		return "", "", fault.Errorf(fault.Usage, "%s: %w", filepath.Join(dir, "go.sum"), err)
	}
	g := goRun{f: f, dir: dir, modCache: modCache}
	if len(packages) > 0 {
		err = g.listPackages(ctx, packages)
	} else {
		err = g.downloadAll(ctx, main, mod, sum, sums)
	}
	if err != nil {
		if f.offline && fault.ClassOf(err) == fault.Source {
			return "", "", errors.Join(offlineError([]string{name}), err)
		}
		return "", "", err // what was fetched stays for the next run
	}
	d, n, err := f.storeModules(ctx, modCache, sums)
	if err != nil {
		return "", "", err
	}
	if err := f.store.PutAction(key, store.Action{Name: name, Description: text, Outputs: map[string]store.Digest{"tar": d}}); err != nil {
		return "", "", err
	}
	f.tell(Event{Kind: Finished, Name: name, Done: n, Total: n})
	return key, d, errors.Join(os.RemoveAll(modCache), os.Remove(modCache+".lock"))
}

// listPackages finds the modules of packages: it lets go resolve every import, which downloads just the modules
// a build reads, into the empty module cache.
func (g goRun) listPackages(ctx context.Context, packages []string) error {
	args := []string{"list", "-deps", "-f", "{{with .Error}}{{.}}{{end}}"}
	if strings.HasPrefix(packages[0], "-tags=") {
		args, packages = append(args, packages[0]), packages[1:]
	}
	args = append(append(args, "--"), packages...)
	for _, goarch := range goArchs() {
		g.env = []string{"GOARCH=" + goarch}
		if _, err := g.run(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// downloadAll downloads every module of go.mod with a zip in go.sum, and what
// reading the module graph takes. It works in a copy, where no package is.
func (g goRun) downloadAll(ctx context.Context, main *modfile.File, mod, sum []byte, sums map[module.Version]string) error {
	work, err := os.MkdirTemp(filepath.Dir(g.modCache), "work-")
	if err != nil {
		return store.FullDisk(g.modCache, err)
	}
	defer os.RemoveAll(work)
	if err := errors.Join(os.WriteFile(filepath.Join(work, "go.mod"), mod, 0o644), os.WriteFile(filepath.Join(work, "go.sum"), sum, 0o644)); err != nil {
		return store.FullDisk(g.modCache, err)
	}
	g.dir = work
	var want []string
	add := func(m module.Version) {
		if _, ok := sums[m]; ok {
			want = append(want, m.Path+"@"+m.Version)
		}
	}
	for _, r := range main.Require {
		add(r.Mod)
	}
	for _, r := range main.Replace {
		if r.New.Version == "" {
			return fault.Errorf(fault.Usage, "%s: %s is replaced by the directory %s, which a build step cannot have", main.Syntax.Name, r.Old.Path, r.New.Path)
		}
		add(r.New)
	}
	if _, err := g.run(ctx, "mod", "graph"); err != nil {
		return err
	}
	if len(want) == 0 {
		return nil
	}
	slices.Sort(want)
	out, err := g.run(ctx, append([]string{"mod", "download", "-json"}, slices.Compact(want)...)...)
	list, perr := parseDownloads(out)
	for _, m := range list {
		if m.Error != "" {
			return fault.Errorf(fault.Source, "%s@%s: %s", m.Path, m.Version, m.Error)
		}
	}
	return errors.Join(err, perr)
}

// storeModules packs the download part of a module cache.
func (f *Fetcher) storeModules(ctx context.Context, modCache string, sums map[module.Version]string) (store.Digest, int64, error) {
	w, err := f.store.Create(ctx)
	if err != nil {
		return "", 0, err
	}
	defer w.Abort()
	tw := tar.NewWriter(w)
	root := filepath.Join(modCache, "cache", "download")
	// WalkDir goes in lexical order, which makes the tar's.
	err = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if p == root && errors.Is(err, fs.ErrNotExist) {
				return nil // a module without dependencies
			}
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if rel == "sumdb" {
				return fs.SkipDir
			}
			return nil
		}
		return packModuleFile(tw, p, filepath.ToSlash(rel), sums)
	})
	if err = errors.Join(err, tw.Close()); err != nil {
		return "", 0, fault.Wrap(fault.Environment, fmt.Errorf("go modules: %w", err))
	}
	return w.Commit("")
}

func packModuleFile(tw *tar.Writer, p, rel string, sums map[module.Version]string) error {
	v := strings.TrimSuffix(path.Base(rel), path.Ext(rel))
	switch path.Ext(rel) {
	case ".mod":
		// .info has the time and origin of the commit, and is not fetched for
		// every .mod: a minimal one beside each .mod is enough.
		version, err := module.UnescapeVersion(v)
		if err != nil {
			return err
		}
		info, err := json.Marshal(map[string]string{"Version": version})
		if err != nil {
			return err
		}
		if err := tarFile(tw, strings.TrimSuffix(rel, ".mod")+".info", bytes.NewReader(info), int64(len(info))); err != nil {
			return err
		}
	case ".ziphash":
		if err := checkZipHash(p, rel, v, sums); err != nil {
			return err
		}
	case ".zip":
	default:
		return nil // .info, .lock, list
	}
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	defer f.Close() // only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return tarFile(tw, rel, f, info.Size())
}

// checkZipHash compares the hash go computed with go.sum's, in case the
// machine's settings turned go's own comparison off.
func checkZipHash(p, rel, v string, sums map[module.Version]string) error {
	escaped, _, ok := strings.Cut(rel, "/@v/")
	name, err := module.UnescapePath(escaped)
	if err != nil || !ok {
		return fmt.Errorf("module cache: unexpected file %s", rel)
	}
	version, err := module.UnescapeVersion(v)
	if err != nil {
		return err
	}
	got, err := os.ReadFile(p)
	if err != nil {
		return err
	}
	want, ok := sums[module.Version{Path: name, Version: version}]
	if !ok || strings.TrimSpace(string(got)) != want {
		return fault.Errorf(fault.Verification, "%s@%s: wrong module hash: go.sum has %q, got %s", name, version, want, got)
	}
	return nil
}

func tarFile(tw *tar.Writer, rel string, r io.Reader, size int64) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: "cache/download/" + rel, Mode: 0o644, Size: size, Format: tar.FormatPAX}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(tw, r)
	return err
}

// parseGoSum reads the hashes of zips; those of go.mod files are go's own
// business.
func parseGoSum(r io.Reader) (map[module.Version]string, error) {
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	out := make(map[module.Version]string)
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		w := strings.Fields(line)
		if len(w) == 0 {
			continue
		}
		if len(w) != 3 {
			return nil, fmt.Errorf("line %d: want module, version and hash", n)
		}
		if strings.HasPrefix(w[2], "h1:") && !strings.HasSuffix(w[1], "/go.mod") {
			out[module.Version{Path: w[0], Version: w[1]}] = w[2]
		}
	}
	return out, nil
}

// goSource is a digest of every Go file below dir that go list may read.
func goSource(ctx context.Context, dir string) (store.Digest, error) {
	var list strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if base := d.Name(); d.IsDir() && p != dir && (base == "testdata" || base[0] == '.' || base[0] == '_') {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		b, err := readSmall(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		fmt.Fprintf(&list, "%s %s\n", store.FromBytes(b), filepath.ToSlash(rel))
		return err
	})
	if err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	return store.FromBytes([]byte(list.String())), nil
}

// readSmall reads a source file, of at most 16 MiB.
func readSmall(name string) ([]byte, error) {
	const limit = 16 << 20
	f, err := os.Open(name)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "%w", err)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	if len(b) > limit {
		return nil, fault.Errorf(fault.Usage, "%s is larger than %d bytes", name, limit)
	}
	return b, nil
}
