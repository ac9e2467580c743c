package attest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Options of Sign.
type Options struct {
	Key signature.SecretKey
	// Rotations lead to the key, as signature.Rotate makes them; nil for none.
	Rotations []byte
	// Version is for people; "" is the day of the bundle's time stamp.
	Version string
	// Index is higher than that of every bundle of this name before.
	Index int64
}

// Sign verifies the bundle in dir, with what describes it, and signs it all. It
// returns what was signed and the files that were written.
func Sign(ctx context.Context, dir string, o Options) (*signature.Statement, []string, error) {
	offer, m, err := bundle.Offer(dir)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case offer.Key == "":
		return nil, nil, fault.Errorf(fault.Usage, "%s: the recipe of the bundle names no key, so that nobody would ask for the signature", dir).
			Hintf("write the public key's file into the recipe, as release: key, and build it again")
	case offer.Key != o.Key.Public():
		return nil, nil, fault.Errorf(fault.Usage, "%s: the bundle's manifest names the key %s, and this one is %s", dir, offer.Key, o.Key.Public()).
			Hintf("sign with that key, or change the recipe and build the bundle again")
	}
	for _, a := range m.Artifacts {
		if err := bundle.VerifyArtifact(ctx, dir, a); err != nil {
			return nil, nil, err
		}
	}
	st := signature.Statement{Name: m.Name, Arch: m.Arch, Version: o.Version, Index: o.Index}
	if st.Version == "" {
		st.Version = time.Unix(m.SourceDate, 0).UTC().Format("2006.01.02")
	}
	written := []string{signature.FileName}
	if _, err := os.Stat(filepath.Join(dir, bundle.ProvenanceFile)); err == nil {
		text, err := read(dir, bundle.ProvenanceFile)
		if err != nil {
			return nil, nil, err
		}
		if _, err := ParseProvenance(bundle.ProvenanceFile, text, m, offer.Manifest); err != nil {
			return nil, nil, err
		}
		envelope, err := Envelope(text, o.Key)
		if err != nil {
			return nil, nil, err
		}
		if err := atomicfile.Write(filepath.Join(dir, bundle.EnvelopeFile), envelope, 0o644); err != nil {
			return nil, nil, err
		}
		written = append(written, bundle.EnvelopeFile)
	}
	if st.Files, err = descriptions(dir); err != nil {
		return nil, nil, err
	}
	text, err := signature.Sign(o.Key, offer.Manifest, st, o.Rotations)
	if err != nil {
		return nil, nil, err
	}
	// Last: with it the bundle is signed.
	if err := atomicfile.Write(filepath.Join(dir, signature.FileName), text, 0o644); err != nil {
		return nil, nil, err
	}
	signed, err := signature.Verify(text, offer.Manifest)
	if err != nil {
		return nil, nil, err
	}
	return &signed.Statement, written, nil
}

// descriptions are the digests of the files that describe the bundle in dir.
func descriptions(dir string) ([]signature.File, error) {
	var out []signature.File
	for _, name := range bundle.Descriptions() {
		text, err := read(dir, name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, signature.File{Name: name, Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(text))})
	}
	slices.SortFunc(out, func(a, b signature.File) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}
