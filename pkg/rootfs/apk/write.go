package apk

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// checksumKey is the PAX record with a file's SHA-1 in hex.
const checksumKey = "APK-TOOLS.checksum.SHA1"

// WriteOption changes how Write works, never what it writes.
type WriteOption func(*writeOptions)

type writeOptions struct {
	tempDir string
	scripts map[string]string // by kind; only tests give them
}

// WithTempDir puts the temporary file, as large as the package, into dir. The
// default is the system's temporary directory, which may be in memory.
func WithTempDir(dir string) WriteOption { return func(o *writeOptions) { o.tempDir = dir } }

// Write writes a package of the tree, signed with key, or not signed, for Sign,
// when key is nil. Size, InstalledSize, Checksum, DataHash and, unless given,
// BuildDate are filled in and returned.
// All times are epoch. The data member goes through a temporary file, because
// the control member before it holds its digest.
func Write(w io.Writer, m Meta, t *rootfs.Tree, key *SigningKey, epoch int64, opts ...WriteOption) (Meta, error) {
	var o writeOptions
	for _, opt := range opts {
		opt(&o)
	}
	if m.BuildDate == 0 {
		m.BuildDate = epoch
	}
	m.InstalledSize = 0
	for e := range t.All() {
		if e.IsRegular() && e.Hard == "" {
			m.InstalledSize += e.Size
		}
	}
	if err := m.check(); err != nil {
		return m, err
	}
	tmp, err := atomicfile.Scratch(o.tempDir)
	if err != nil {
		return m, fmt.Errorf("package %s: %w", m.ID(), err)
	}
	defer tmp.Close() // it holds nothing that is wanted after
	sum := sha256.New()
	if err := writeData(io.MultiWriter(tmp, sum), t, epoch); err != nil {
		return m, fmt.Errorf("package %s: %w", m.ID(), err)
	}
	m.DataHash = hex.EncodeToString(sum.Sum(nil))

	var control bytes.Buffer
	files := []memberFile{{".PKGINFO", []byte(m.pkginfo()), 0o644}}
	for _, kind := range slices.Sorted(maps.Keys(o.scripts)) {
		files = append(files, memberFile{"." + kind, []byte(o.scripts[kind]), 0o755})
	}
	if err := writeMember(&control, epoch, false, files...); err != nil {
		return m, fmt.Errorf("package %s: %w", m.ID(), err)
	}
	controlSum := sha1.Sum(control.Bytes())
	m.Checksum = checksumString(controlSum[:])
	var sig []byte
	if key != nil {
		if sig, err = key.sign(sha256.Sum256(control.Bytes()), epoch); err != nil {
			return m, err
		}
	}
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return m, fmt.Errorf("package %s: %w", m.ID(), err)
	}
	m.Size, err = io.Copy(w, io.MultiReader(bytes.NewReader(sig), &control, tmp))
	if err != nil {
		return m, fmt.Errorf("package %s: %w", m.ID(), err)
	}
	return m, nil
}

// Sign copies a package that is not signed to w, with a signature before it.
// It gets longer by SignatureSize.
func Sign(w io.Writer, unsigned io.ReadSeeker, key *SigningKey, epoch int64) error {
	in := &countingReader{r: bufio.NewReader(unsigned)}
	files, err := readMember(in, maxControl)
	if err != nil {
		return fault.Errorf(fault.Source, "sign a package: first member: %w", err)
	}
	if _, signed := signatures(files); signed {
		return fault.Errorf(fault.Usage, "sign a package: it is signed already")
	}
	if _, err := unsigned.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("sign a package: %w", err)
	}
	sum := sha256.New()
	if _, err := io.CopyN(sum, unsigned, in.n); err != nil {
		return fmt.Errorf("sign a package: %w", err)
	}
	sig, err := key.sign([sha256.Size]byte(sum.Sum(nil)), epoch)
	if err != nil {
		return err
	}
	if _, err := w.Write(sig); err != nil {
		return fmt.Errorf("sign a package: %w", err)
	}
	if _, err := unsigned.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("sign a package: %w", err)
	}
	if _, err := io.Copy(w, unsigned); err != nil {
		return fmt.Errorf("sign a package: %w", err)
	}
	return nil
}

// writeData writes the data member.
func writeData(w io.Writer, t *rootfs.Tree, epoch int64) error {
	gz, err := newGzip(w)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(gz)
	first := map[string]string{}
	for target, names := range t.HardLinks() {
		for _, name := range names[1:] {
			first[name] = target
		}
	}
	for e := range t.All() {
		h := rootfs.HeaderOf(e, epoch)
		if target, ok := first[e.Path]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, target, 0
		}
		sum, ok, err := entrySum(e)
		if err != nil {
			return err
		}
		if ok {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[checksumKey] = hex.EncodeToString(sum)
		}
		h.Format = tar.FormatPAX
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
		if h.Typeflag == tar.TypeReg {
			if err := e.CopyTo(tw); err != nil {
				return err
			}
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	return gz.Close()
}

// entrySum is apk's checksum of an entry: the SHA-1 of a file's contents or of
// a symbolic link's target; nothing else has one.
func entrySum(e rootfs.Entry) (sum []byte, ok bool, err error) {
	h := sha1.New()
	switch {
	case e.IsRegular():
		if err := e.CopyTo(h); err != nil {
			return nil, false, err
		}
	case e.IsSymlink():
		io.WriteString(h, e.Link)
	default:
		return nil, false, nil
	}
	return h.Sum(nil), true, nil
}
