package artifact

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// description is a file that says something about a bundle.
type description struct {
	name string
	text []byte
}

// admit says whether the bundle may be pulled, going by its signature and what is
// in the directory, and returns what describes it. Of a signed bundle that is
// what the signature names.
func (p *puller) admit(ctx context.Context, raw []byte, m *bundle.Manifest) ([]description, error) {
	trust, err := p.trusted()
	if err != nil {
		return nil, err
	}
	referrers, err := p.client.Referrers(ctx, p.repo.Digest(p.subject.String()))
	if err != nil {
		return nil, err
	}
	offer := signature.Offer{Name: m.Name, Arch: m.Arch, Manifest: raw, Key: signature.Key(m.Key()), Rollback: p.rollback}
	if trust == nil && offer.Key == "" {
		return p.unsigned(ctx, referrers)
	}
	// Whoever can push can add a signature that is none: the newest that is good
	// counts, and where there is none, what is wrong with the first.
	var best *signature.Signed
	var text []byte
	_, _, refused := trust.Accept(offer, time.Now()) // without any
	for n, d := range ofType(referrers, SignatureType) {
		if n >= maxSignatures {
			break
		}
		got, err := p.describing(ctx, d, SignatureType, signature.MaxSize)
		if err == nil {
			offer.Signature = got
			var signed *signature.Signed
			if _, signed, err = trust.Accept(offer, time.Now()); err == nil && (best == nil || signed.Index > best.Index) {
				best, text = signed, got
			}
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil && fault.ClassOf(err) != fault.Verification {
			return nil, err
		}
		if err != nil && n == 0 {
			refused = err
		}
	}
	if best == nil {
		return nil, refused
	}
	out := []description{{signature.FileName, text}}
	for _, f := range best.Files {
		d, err := p.named(ctx, referrers, f)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// maxSignatures is how many signatures of one bundle are looked at.
const maxSignatures = 64

// trusted is what is known already: by --key, or by the bundle in the directory.
func (p *puller) trusted() (*signature.Trust, error) {
	var trust *signature.Trust
	if offer, _, err := bundle.Offer(p.dir); err == nil && offer.Key != "" && offer.Signature != nil {
		// One that is not signed well is as good as none.
		trust, _, _ = trust.Accept(offer, time.Now())
	}
	switch {
	case p.key == "":
		return trust, nil
	case trust == nil:
		trust = &signature.Trust{}
	}
	trust.Key = p.key
	return trust, nil
}

// unsigned fetches what describes a bundle that nobody signs.
func (p *puller) unsigned(ctx context.Context, referrers []v1.Descriptor) ([]description, error) {
	var out []description
	for _, name := range bundle.Descriptions() {
		all := ofType(referrers, descriptionTypes[name])
		if len(all) == 0 {
			continue
		}
		text, err := p.describing(ctx, all[0], descriptionTypes[name], bundle.MaxDescription)
		if err != nil {
			return nil, err
		}
		out = append(out, description{name, text})
	}
	return out, nil
}

// named fetches a file that the signature names.
func (p *puller) named(ctx context.Context, referrers []v1.Descriptor, f signature.File) (description, error) {
	kind, ok := descriptionTypes[f.Name]
	if !ok {
		return description{}, fault.Errorf(fault.Source, "the signature names %s, which this version does not know", f.Name)
	}
	err := error(fault.Errorf(fault.Verification, "the signature names %s, and the registry has none that refers to the bundle", f.Name).
		Hintf("push the bundle again from the directory it was signed in"))
	for n, d := range ofType(referrers, kind) {
		if n >= maxSignatures {
			break
		}
		text, one := p.describing(ctx, d, kind, bundle.MaxDescription)
		if one == nil {
			h, _, hashErr := v1.SHA256(bytes.NewReader(text))
			if hashErr == nil && h.String() == f.Digest {
				return description{f.Name, text}, nil
			}
			one = fault.Errorf(fault.Verification, "%s is %s, and the signature names %s", f.Name, h, f.Digest)
		}
		if fault.ClassOf(one) != fault.Verification {
			return description{}, one
		}
		err = one
	}
	return description{}, err
}

// ofType are the referrers of a type.
func ofType(all []v1.Descriptor, kind string) []v1.Descriptor {
	return slices.DeleteFunc(slices.Clone(all), func(d v1.Descriptor) bool { return d.ArtifactType != kind })
}

// describing fetches the file of a referrer, which has to be of the type and to
// refer to this bundle.
func (p *puller) describing(ctx context.Context, d v1.Descriptor, kind string, limit int64) ([]byte, error) {
	at := p.repo.Digest(d.Digest.String())
	got, err := p.client.Get(ctx, at)
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(got.Manifest))
	switch {
	case err != nil || m.MediaType != types.OCIManifestSchema1 || m.ArtifactType != kind || len(m.Layers) != 1:
		return nil, fault.Errorf(fault.Verification, "%s is not an artifact of %s with one file", at, kind)
	case m.Subject == nil || m.Subject.Digest != p.subject:
		elsewhere := "nothing"
		if m.Subject != nil {
			elsewhere = m.Subject.Digest.String()
		}
		return nil, fault.Errorf(fault.Verification, "%s is listed as about this bundle, and says that it is about %s", at, elsewhere)
	case m.Layers[0].Size > limit:
		return nil, fault.Errorf(fault.Verification, "%s: its file of %d bytes is larger than %d", at, m.Layers[0].Size, limit)
	}
	var text []byte
	err = p.client.Blob(ctx, p.repo, m.Layers[0], func(r io.Reader) (err error) {
		text, err = io.ReadAll(r)
		return err
	})
	return text, err
}

// same says whether the directory has this very bundle, whole, with this very
// description: then there is nothing to do.
func (p *puller) same(ctx context.Context, raw []byte, describing []description) bool {
	have, err := os.ReadFile(filepath.Join(p.dir, bundle.ManifestFile))
	if err != nil || !bytes.Equal(have, raw) {
		return false
	}
	for _, d := range describing {
		if text, err := os.ReadFile(filepath.Join(p.dir, d.name)); err != nil || !bytes.Equal(text, d.text) {
			return false
		}
	}
	if _, err := os.Stat(filepath.Join(p.dir, bundle.SumsFile)); errors.Is(err, os.ErrNotExist) {
		return false
	}
	return bundle.Verify(ctx, p.dir) == nil
}

// Select returns the bundle for an architecture ("amd64") of an index; ok is
// false where the manifest is no index of bundles.
func Select(manifest []byte, arch string) (d v1.Descriptor, ok bool, err error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(manifest))
	if err != nil || index.MediaType != types.OCIImageIndex {
		return d, false, nil
	}
	var found []v1.Descriptor
	bundles := 0
	for _, m := range index.Manifests {
		if m.ArtifactType != Type {
			continue
		}
		bundles++
		if m.Platform != nil && m.Platform.OS == "linux" && m.Platform.Architecture == arch {
			found = append(found, m)
		}
	}
	switch {
	case bundles == 0:
		return d, false, nil
	case len(found) == 0:
		return d, true, fault.Errorf(fault.Source, "the index has no bundle for %s", arch).Hintf("name the platform of one that it has")
	case len(found) > 1:
		return d, true, fault.Errorf(fault.Verification, "the index has %d bundles for %s", len(found), arch).Hintf("name one by its digest")
	}
	return found[0], true, nil
}
