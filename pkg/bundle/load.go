package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sovereign-build/sovereign/internal/stream"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/remedy"
)

// Load reads and checks the manifest of the bundle in dir. A directory that
// holds none is of class fault.Usage; a manifest with an error as Parse says.
// It does not look at the artifacts: see Verify.
func Load(dir string) (*Manifest, error) {
	path := filepath.Join(dir, ManifestFile)
	data, err := readManifest(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// Digest names a bundle: "sha256:" and the SHA-256 of its manifest, which in
// turn names every artifact by digest.
func Digest(dir string) (string, error) {
	data, err := readManifest(filepath.Join(dir, ManifestFile))
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

func readManifest(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, remedy.By(remedy.Remedy{Kind: remedy.BuildBundle},
			fault.Errorf(fault.Usage, "%s is not a bundle: it holds no %s", filepath.Dir(path), ManifestFile).Hintf("build one"))
	}
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return nil, fault.Errorf(fault.Environment, "reading %s: %w", path, err)
	}
	return data, nil
}

// Signature reads the signature of the bundle in dir, for package signature;
// nil where it has none.
func Signature(dir string) ([]byte, error) {
	f, err := os.Open(filepath.Join(dir, signature.FileName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	// One byte more than there may be is enough for its reader to refuse it.
	text, err := io.ReadAll(io.LimitReader(f, signature.MaxSize+1))
	if err != nil {
		return nil, fault.Errorf(fault.Environment, "reading %s: %w", f.Name(), err)
	}
	return text, nil
}

// Offer reads what the bundle in dir has to say to whoever takes only signed
// ones, and its manifest as it was read for that.
func Offer(dir string) (signature.Offer, *Manifest, error) {
	var o signature.Offer
	path := filepath.Join(dir, ManifestFile)
	var err error
	if o.Manifest, err = readManifest(path); err != nil {
		return o, nil, err
	}
	m, err := Parse(path, o.Manifest)
	if err != nil {
		return o, nil, err
	}
	o.Name, o.Arch, o.Key = m.Name, m.Arch, signature.Key(m.Key())
	o.Signature, err = Signature(dir)
	return o, m, err
}

// Verify checks the bundle in dir: the manifest, and the size and digest of
// every artifact. The first that is not as written is an error of class
// fault.Verification that names the file, what was expected and what is there.
func Verify(ctx context.Context, dir string) error {
	m, err := Load(dir)
	if err != nil {
		return err
	}
	for _, a := range m.Artifacts {
		if err := VerifyArtifact(ctx, dir, a); err != nil {
			return err
		}
	}
	return nil
}

// VerifyArtifact checks the size and digest of one artifact of the bundle in
// dir, with errors as Verify gives them.
func VerifyArtifact(ctx context.Context, dir string, a Artifact) error {
	path := filepath.Join(dir, a.File)
	const hint = "build the bundle again, or fetch it again from where it came"
	size, digest, err := digestFile(ctx, path, a.Size)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.Errorf(fault.Verification, "%s: the manifest names this file and it is not there", path).Hintf(hint)
	case err != nil:
		return fmt.Errorf("verifying %s: %w", path, err)
	case size != a.Size:
		return fault.Errorf(fault.Verification, "%s: expected %d bytes, got %d", path, a.Size, size).Hintf(hint)
	case digest != a.Digest:
		return fault.Errorf(fault.Verification, "%s: expected %s, got %s", path, a.Digest, digest).Hintf(hint)
	}
	return nil
}

// digestFile hashes a regular file. Where want is not negative and the size
// differs from it, the content is not read and the digest is empty.
func digestFile(ctx context.Context, path string, want int64) (int64, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, "", err
	}
	if !info.Mode().IsRegular() {
		return 0, "", fault.Errorf(fault.Verification, "%s is not a regular file", path)
	}
	if want >= 0 && info.Size() != want {
		return info.Size(), "", nil
	}
	h := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, stream.WithContext(ctx, f), make([]byte, 1<<20))
	if err != nil {
		return 0, "", err
	}
	return n, "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}
