package build

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sovereign-build/sovereign/internal/unpack"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/kernel"
	"github.com/sovereign-build/sovereign/pkg/kernel/kconfig"
)

// kconfigOutput names the tarball of Kconfig files among an action's outputs.
const kconfigOutput = "kconfig.tar"

// KconfigFiles returns the Kconfig files of the kernel source tarball at path,
// which has this digest. Finding them in a whole kernel takes most of a minute,
// so they are kept in the content store; note is told when it has to be done.
func KconfigFiles(ctx context.Context, st *store.Store, path string, digest store.Digest, note func(line string)) (kconfig.Files, error) {
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
	note("reading the Kconfig files of the kernel's source, which is done once")
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

// readTarball finds the Kconfig files of a tarball.
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
	plain, err := unpack.File(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("kernel source %s: %w", path, err)
	}
	files, err = kernel.ReadSource(ctx, plain)
	if err == nil {
		// Past the end of the archive, where a program that decompresses says
		// whether all was well.
		_, err = io.Copy(io.Discard, plain)
	}
	if err = errors.Join(err, plain.Close()); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return files, nil
}

// explainLost adds to an error about lost symbols why each was lost, from the
// kernel's own Kconfig files.
func (b *Builder) explainLost(ctx context.Context, lost error, merged *kernel.Merged) error {
	src, err := b.lockedSource(b.recipe.Kernel.Source, b.recipe.Path)
	if err != nil {
		return errors.Join(lost, err)
	}
	files, err := KconfigFiles(ctx, b.store, b.store.Path(src.Digest), src.Digest, func(string) { b.tell(KconfigRead{}) })
	if err != nil {
		return errors.Join(lost, err)
	}
	tree, err := kernel.Kconfig(files, b.arch.Arch)
	if err != nil {
		return errors.Join(lost, err)
	}
	return kernel.ExplainError(lost, tree, merged)
}
