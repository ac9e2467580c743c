package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel"
	"github.com/sovereign-build/sovereign/pkg/kernel/kconfig"
)

// kconfig reads the Kconfig tree of a kernel source: a directory, a tarball, or
// a recipe, which stands for the tarball its lock names.
func (s *session) kconfig(ctx context.Context, source string, a kernel.Arch) (*kconfig.Tree, error) {
	files, err := s.kconfigFiles(ctx, source)
	if err != nil {
		return nil, err
	}
	return kernel.Kconfig(files, a)
}

func (s *session) kconfigFiles(ctx context.Context, source string) (fs.FS, error) {
	info, err := os.Stat(source)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "--source: %w", err)
	}
	if _, err := os.Stat(filepath.Join(source, recipe.FileName)); info.IsDir() && err != nil {
		return kernel.OpenSource(ctx, source)
	}
	st, err := s.contentStore()
	if err != nil {
		return nil, err
	}
	if !isRecipe(source) {
		digest, err := fileDigest(source)
		if err != nil {
			return nil, fault.Errorf(fault.Environment, "--source: %w", err)
		}
		return s.unpacked(ctx, st, filepath.Base(source), source, digest)
	}
	r, err := recipe.Load(source)
	if err != nil {
		return nil, err
	}
	pins, err := lock.Load(filepath.Join(r.Dir, lock.FileName))
	if err != nil {
		return nil, err
	}
	src, ok := pins.Source(r.Kernel.Source)
	if !ok {
		return nil, fault.Errorf(fault.Usage, "%s: the kernel source %q is not locked", source, r.Kernel.Source).
			Hintf("run sovereign-build lock %s", source)
	}
	if !st.Has(src.Digest) {
		return nil, fault.Errorf(fault.Source, "%s %s is not in the content store", src.Name, src.Version).
			Hintf("build %s once, or give --source", source)
	}
	return s.unpacked(ctx, st, src.File, st.Path(src.Digest), src.Digest)
}

func fileDigest(path string) (store.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	return store.ParseDigest("sha256:" + hex.EncodeToString(h.Sum(nil)))
}

func (s *session) contentStore() (*store.Store, error) {
	dir := s.cacheDir
	if dir == "" {
		var err error
		if dir, err = build.DefaultCacheDir(); err != nil {
			return nil, err
		}
	}
	return store.Open(filepath.Join(dir, "store"))
}

// kconfigOutput names the tarball of Kconfig files among an action's outputs.
const kconfigOutput = "kconfig.tar"

// unpacked returns the Kconfig files of a tarball. Finding them in the whole
// kernel takes most of a minute, so they are kept in the content store.
func (s *session) unpacked(ctx context.Context, st *store.Store, name, path string, digest store.Digest) (kconfig.Files, error) {
	inputs, err := json.Marshal(map[string]string{"format": "kconfig/1", "source": digest.String()})
	if err != nil {
		return nil, err
	}
	key := store.Key(inputs)
	if kept, ok, err := st.Action(key); err == nil && ok {
		if f, err := st.Open(kept.Outputs[kconfigOutput]); err == nil {
			files, err := kernel.ReadSource(ctx, f)
			return files, errors.Join(err, f.Close())
		}
	}
	s.printer().note("reading the Kconfig files of " + name + ", which is done once")
	files, err := readTarball(ctx, path)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := kernel.WriteSource(&b, files); err != nil {
		return nil, err
	}
	kept, _, err := st.Put(ctx, &b, "")
	if err != nil {
		return nil, err
	}
	return files, st.PutAction(key, store.Action{
		Name: "kconfig " + digest.String(), Description: inputs, Outputs: map[string]store.Digest{kconfigOutput: kept},
	})
}

// readTarball decompresses with the xz program where there is one: it is
// several times as fast as this process.
func readTarball(ctx context.Context, path string) (files kconfig.Files, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Errorf(fault.Environment, "kernel source: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fault.Wrap(fault.Environment, cerr)
		}
	}()
	magic := make([]byte, 6)
	if _, err := f.ReadAt(magic, 0); err != nil {
		return nil, fault.Errorf(fault.Usage, "kernel source %s: %w", path, err)
	}
	xz, lookErr := exec.LookPath("xz")
	if lookErr == nil && string(magic) == "\xfd7zXZ\x00" {
		files, err = readXZ(ctx, xz, f)
	} else {
		files, err = kernel.ReadSource(ctx, f)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return files, nil
}

// readXZ reads the output of the xz program.
func readXZ(ctx context.Context, xz string, f *os.File) (kconfig.Files, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, xz, "-dc", "-T0")
	var said strings.Builder
	cmd.Stdin, cmd.Stderr = f, &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	files, readErr := kernel.ReadSource(ctx, out)
	if readErr == nil {
		// Past the end of the archive, so that xz ends by itself.
		_, readErr = io.Copy(io.Discard, out)
	}
	if readErr != nil {
		cancel()
	}
	if err := cmd.Wait(); err != nil && readErr == nil {
		readErr = fault.Errorf(fault.Usage, "xz: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return files, readErr
}
