package toolchain

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// repository is a flat apt repository of exactly the locked packages. It needs
// no signature: every file in it was checked against the lock.
type repository struct{ dir string }

// newRepository makes the directory. As root it lies in work, where the
// store's files can be linked. Otherwise mmdebstrap reads it as another user,
// who cannot enter a private cache directory, so it lies in the system's
// temporary directory, open to all.
func newRepository(work string) (*repository, error) {
	parent := work
	if os.Getuid() != 0 {
		parent = ""
	}
	dir, err := os.MkdirTemp(parent, "sovereign-repository-")
	if err != nil {
		return nil, fault.Errorf(fault.Environment, "toolchain: %w", err)
	}
	return &repository{dir}, os.Chmod(dir, 0o755)
}

// close removes the directory. What cannot be removed is in a temporary
// directory, and the image is made by then.
func (r *repository) close() { _ = os.RemoveAll(r.dir) }

// fill puts the packages and their index into the repository.
func (r *repository) fill(ctx context.Context, st *store.Store, packages []lock.DebPackage) error {
	stanzas := make([]string, len(packages))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for i, p := range packages {
		group.Go(func() (err error) {
			stanzas[i], err = r.add(ctx, st, p)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("toolchain: %w", err)
	}
	index := strings.Join(stanzas, "\n")
	return os.WriteFile(filepath.Join(r.dir, "Packages"), []byte(index), 0o644)
}

// add links or copies one package and returns its stanza of the index.
func (r *repository) add(ctx context.Context, st *store.Store, p lock.DebPackage) (string, error) {
	file := path.Base(p.File)
	if !strings.HasSuffix(file, ".deb") {
		return "", fault.Errorf(fault.Usage, "package %s: file %q is not a .deb", p.Name, p.File)
	}
	dest := filepath.Join(r.dir, file)
	if err := link(st.Path(p.Digest), dest); err != nil {
		return "", fault.Errorf(fault.Source, "package %s %s: %w", p.Name, p.Version, err).
			Hintf("run the build again: missing packages are fetched")
	}
	control, err := control(ctx, dest)
	if err != nil {
		return "", fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
	}
	for _, want := range [][2]string{{"Package", p.Name}, {"Version", p.Version}, {"Architecture", p.Arch}} {
		if got := field(control, want[0]); got != want[1] {
			return "", fault.Errorf(fault.Verification, "%s: %s is %q, the lock has %q", file, want[0], got, want[1])
		}
	}
	return fmt.Sprintf("%s\nFilename: ./%s\nSize: %d\nSHA256: %s\n", strings.TrimSpace(control), file, p.Size, p.Digest.Hex()), nil
}

// link makes dest the same file as src, or a copy where links do not reach.
func link(src, dest string) error {
	if os.Getuid() == 0 && os.Link(src, dest) == nil {
		return nil
	}
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dest, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// control is a package's control file.
func control(ctx context.Context, deb string) (string, error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--field", deb)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fault.Errorf(fault.Environment, "%s: %w %s", cmd, err, strings.TrimSpace(stderr.String())).
			Hintf("the toolchain image is made with Debian's tools: apt-get install dpkg mmdebstrap")
	}
	return string(out), nil
}

// field is a one-line field of a control file.
func field(control, name string) string {
	lines := bufio.NewScanner(strings.NewReader(control))
	lines.Buffer(nil, len(control)+1)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
