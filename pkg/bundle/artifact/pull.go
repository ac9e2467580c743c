package artifact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/registry"
	"github.com/sovereign-build/sovereign/pkg/remedy"
)

// maxManifest bounds the bundle's manifest.json in bytes, as package bundle
// does.
const maxManifest = 4 << 20

// Progress is told the bytes of files that are in place, of the total.
type Progress func(done, total int64)

// Pulled is what Pull put into a directory.
type Pulled struct {
	// Reference names the artifact by digest.
	Reference name.Digest
	Manifest  *bundle.Manifest
	// Fetched are the bytes that came from the registry; the rest was in the
	// directory already.
	Fetched int64
}

// Pull brings the bundle that ref, "HOST/NAME:TAG" or "HOST/NAME@sha256:…",
// names into the directory dir, which may hold an older bundle: what has not
// changed is taken from there. Every file is verified, and the bundle takes
// its place in one rename. After an error nothing of it is left.
//
// Errors: fault.Verification for wrong bytes and for a bundle that is not what
// its manifest says; fault.Source for a reference to something else and for a
// registry that fails; fault.Usage for a reference or directory that is none;
// fault.Environment for what this machine lacks.
//
// A bundle whose manifest names a key has to be signed by it, and one that takes
// the place of a signed bundle by that one's key or one it was rotated to, with no
// lower index: else the error is fault.Verification, before any other file is
// fetched.
func Pull(ctx context.Context, client *registry.Client, ref, dir string, progress Progress, options ...PullOption) (*Pulled, error) {
	from, err := registry.Parse(ref)
	if err != nil {
		return nil, err
	}
	got, err := client.Get(ctx, from)
	if err != nil {
		return nil, err
	}
	m, ok := parse(got.Manifest)
	if !ok {
		return nil, remedy.By(remedy.Remedy{Kind: remedy.PushBundle},
			fault.Errorf(fault.Source, "%s is not a bundle but %s", ref, got.MediaType).Hintf("name a reference that a bundle was pushed to"))
	}
	p := &puller{client: client, repo: from.Context(), dir: dir, progress: progress, subject: got.Digest}
	for _, o := range options {
		o(p)
	}
	if p.progress == nil {
		p.progress = func(int64, int64) {}
	}
	manifest, err := p.pull(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("pulling %s: %w", ref, err)
	}
	return &Pulled{Reference: from.Context().Digest(got.Digest.String()), Manifest: manifest, Fetched: p.fetched}, nil
}

// IsBundle says whether a manifest is that of a bundle.
func IsBundle(manifest []byte) bool {
	_, ok := parse(manifest)
	return ok
}

func parse(manifest []byte) (*v1.Manifest, bool) {
	m, err := v1.ParseManifest(bytes.NewReader(manifest))
	return m, err == nil && m.MediaType == types.OCIManifestSchema1 && m.ArtifactType == Type
}

// PullOption changes a pull.
type PullOption func(*puller)

// WithKey takes only a bundle that the key has signed, or one that it was rotated
// to.
func WithKey(key signature.Key) PullOption { return func(p *puller) { p.key = key } }

// AllowRollback takes a bundle that is older than the one in the directory.
func AllowRollback() PullOption { return func(p *puller) { p.rollback = true } }

// puller is one pull under way.
type puller struct {
	subject  v1.Hash // the bundle's artifact
	key      signature.Key
	rollback bool

	client   *registry.Client
	repo     name.Repository
	dir      string
	progress Progress

	done, total, fetched int64
}

func (p *puller) pull(ctx context.Context, m *v1.Manifest) (*bundle.Manifest, error) {
	raw, want, err := p.manifest(ctx, m)
	if err != nil {
		return nil, err
	}
	if err := agree(m, want); err != nil {
		return nil, err
	}
	describing, err := p.admit(ctx, raw, want)
	if err != nil {
		return nil, err
	}
	if p.same(ctx, raw, describing) {
		return want, nil
	}
	// The manifest is written again from its values at the end: its bytes,
	// which name the bundle, must be those.
	canonical, err := bundle.Marshal(want)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(canonical, raw) {
		return nil, fault.Errorf(fault.Verification, "%s is not written as this program writes it", bundle.ManifestFile)
	}
	for _, a := range want.Artifacts {
		p.total += a.Size
	}
	w, err := bundle.Create(p.dir)
	if err != nil {
		return nil, err
	}
	for _, a := range want.Artifacts {
		if err := p.file(ctx, w, a); err != nil {
			return nil, errors.Join(err, w.Abort())
		}
	}
	for _, d := range describing {
		if err := w.Describe(d.name, d.text); err != nil {
			return nil, errors.Join(err, w.Abort())
		}
	}
	return w.Commit(ctx, *want)
}

// manifest fetches the bundle's manifest.
func (p *puller) manifest(ctx context.Context, m *v1.Manifest) ([]byte, *bundle.Manifest, error) {
	for _, d := range m.Layers {
		if d.MediaType != manifestType {
			continue
		}
		if d.Size > maxManifest {
			return nil, nil, fault.Errorf(fault.Source, "%s of %d bytes is larger than %d", bundle.ManifestFile, d.Size, maxManifest)
		}
		var raw []byte
		err := p.client.Blob(ctx, p.repo, d, func(r io.Reader) (err error) {
			raw, err = io.ReadAll(r)
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		want, err := bundle.Parse(bundle.ManifestFile, raw)
		if err != nil {
			// A manifest in somebody's registry is not the caller's input.
			return nil, nil, fault.Errorf(fault.Source, "%w", err).Hintf("push the bundle again, or use the version of this program that pushed it")
		}
		return raw, want, nil
	}
	return nil, nil, fault.Errorf(fault.Source, "the artifact has no %s", bundle.ManifestFile)
}

// agree compares the artifact's list of files with the bundle's, so that a
// difference costs no download.
func agree(m *v1.Manifest, want *bundle.Manifest) error {
	listed := map[string]v1.Descriptor{}
	for _, d := range m.Layers {
		if d.MediaType == fileType {
			listed[d.Annotations[specs.AnnotationTitle]] = d
		}
	}
	if len(listed) != len(want.Artifacts) {
		return fault.Errorf(fault.Verification, "the artifact has %d files and the bundle's manifest names %d", len(listed), len(want.Artifacts))
	}
	for _, a := range want.Artifacts {
		d, ok := listed[a.File]
		switch {
		case !ok:
			return fault.Errorf(fault.Verification, "the bundle's manifest names %s, which the artifact has not", a.File)
		case d.Digest.String() != a.Digest || d.Size != a.Size:
			return fault.Errorf(fault.Verification, "%s: expected %s of %d bytes, the artifact has %s of %d", a.File, a.Digest, a.Size, d.Digest, d.Size)
		}
	}
	return nil
}

// file brings one file into the bundle that is being made: from the one that
// stands in its place, if that has it, or from the registry.
func (p *puller) file(ctx context.Context, w *bundle.Writer, a bundle.Artifact) error {
	h, err := digestOf(a.Digest)
	if err != nil {
		return err
	}
	d := v1.Descriptor{Digest: h, Size: a.Size}
	before := p.done
	old := filepath.Join(p.dir, a.File)
	if info, err := os.Lstat(old); err == nil && info.Mode().IsRegular() && info.Size() == a.Size {
		if err := p.copy(ctx, w, a, old, d); err == nil || ctx.Err() != nil {
			return err
		}
	}
	// Not there, or not the same: the registry has it.
	p.done = before
	err = p.client.Blob(ctx, p.repo, d, func(r io.Reader) error {
		p.done = before
		return w.AddVerified(ctx, a, &counter{r, p})
	})
	p.fetched += p.done - before
	return err
}

// copy adds the file old to the bundle if it is what d describes.
func (p *puller) copy(ctx context.Context, w *bundle.Writer, a bundle.Artifact, old string, d v1.Descriptor) error {
	f, err := os.Open(old)
	if err != nil {
		return err
	}
	return errors.Join(w.AddVerified(ctx, a, &counter{registry.Verify(f, old, d), p}), f.Close())
}

// counter reports what is read.
type counter struct {
	r io.Reader
	p *puller
}

// Read implements io.Reader.
func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.p.done += int64(n)
	c.p.progress(c.p.done, c.p.total)
	return n, err
}
