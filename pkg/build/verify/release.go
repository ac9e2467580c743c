package verify

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/pkg/build/release"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Dir checks what is in dir: a release, or a bundle.
func Dir(ctx context.Context, dir string, o Options) (*Report, error) {
	if !release.IsRelease(dir) {
		return Bundle(ctx, dir, o)
	}
	c := &checker{tell: o.Tell}
	return &c.Report, c.release(ctx, dir, o.Key, o.Sigstore)
}

func (c *checker) release(ctx context.Context, dir string, key signature.Key, also *Sigstore) error {
	var l *release.List
	var text, signed []byte
	err := c.do("release", func() (_ string, err error) {
		if l, text, signed, err = release.Read(dir); err != nil {
			return "", err
		}
		return fmt.Sprintf("%s %s: %d bundles, %d files", l.Name, l.Version, len(l.Bundles), len(l.Files)), nil
	})
	if err != nil {
		return err
	}
	c.Name, c.Version = l.Name, l.Version
	offer := signature.Offer{Name: l.Name, Arch: signature.AllArchs, Manifest: text, Key: signature.Key(l.Key), Signature: signed}
	who, err := c.signature(offer, key)
	if err != nil {
		return err
	}
	if err := c.sigstore(ctx, also, text); err != nil {
		return err
	}
	if who != nil && (who.Version != l.Version || who.Index != l.Index) {
		return c.do("signature", func() (string, error) {
			return "", fmt.Errorf("it is of version %s, index %d, and the release says %s, %d", who.Version, who.Index, l.Version, l.Index)
		})
	}
	if err := c.do("list", func() (string, error) {
		return fmt.Sprintf("%s and %s name what is there", release.ListFile, release.SumsFile), l.Verify(ctx, dir)
	}); err != nil {
		return err
	}
	for _, name := range l.Bundles {
		if err := c.part(ctx, dir, name, l, signature.Key(l.Key), who); err != nil {
			return err
		}
	}
	return nil
}

// part checks a bundle of a release, and that it is one of this release.
func (c *checker) part(ctx context.Context, dir, name string, l *release.List, key signature.Key, who *signature.Signed) error {
	one := &checker{tell: c.tell, of: name}
	err := one.bundle(ctx, filepath.Join(dir, name), key, nil) // the list has its digest
	c.Checks = append(c.Checks, one.Checks...)
	if err != nil {
		return err
	}
	m, err := bundle.Load(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	c.of = name
	defer func() { c.of = "" }()
	return c.do("belongs here", func() (string, error) {
		switch {
		case m.Name+"-"+m.Arch != name:
			return "", fault.Errorf(fault.Verification, "it is %s for %s", m.Name, m.Arch)
		case who != nil && (one.Version != l.Version || one.Index != l.Index):
			return "", fault.Errorf(fault.Verification, "it is version %s, index %d, and the release is %s, %d", one.Version, one.Index, l.Version, l.Index)
		}
		return fmt.Sprintf("made on %s", time.Unix(m.SourceDate, 0).UTC().Format("2006-01-02")), nil
	})
}
