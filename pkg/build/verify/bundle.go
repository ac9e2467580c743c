package verify

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sovereign-build/sovereign/pkg/build/attest"
	"github.com/sovereign-build/sovereign/pkg/build/disk"
	"github.com/sovereign-build/sovereign/pkg/build/licenses"
	"github.com/sovereign-build/sovereign/pkg/build/sbom"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs/verity"
)

// Results of a check.
const (
	OK      = "ok"
	Failed  = "FAILED"
	Skipped = "not checked"
)

// Check is one thing that was looked at, or not.
type Check struct {
	// Of is what it is about: a bundle's name, "" where there is only one.
	Of     string `json:"of,omitempty"`
	What   string `json:"what"`
	Result string `json:"result"`
	Detail string `json:"detail"`
}

// Report is all checks of a bundle or a release.
type Report struct {
	Checks []Check `json:"checks"`
	// Name, Version, Index and Key are those of the signature; empty without one.
	Name    string        `json:"name"`
	Version string        `json:"version,omitempty"`
	Index   int64         `json:"index,omitempty"`
	Key     signature.Key `json:"key,omitempty"`
}

// Options of Bundle and Dir.
type Options struct {
	// Key is the one that has to have signed it, or to have been rotated to the
	// one that has; "" takes the one that the bundle names itself.
	Key signature.Key
	// Sigstore is a second signature that has to be there; nil asks for none.
	Sigstore *Sigstore
	// Tell is told each check when it is done; nil is nobody.
	Tell func(Check)
}

// checker makes a report.
type checker struct {
	Report
	of   string
	tell func(Check)
}

func (c *checker) add(what, result, format string, args ...any) {
	v := Check{c.of, what, result, fmt.Sprintf(format, args...)}
	c.Checks = append(c.Checks, v)
	if c.tell != nil {
		c.tell(v)
	}
}

// do makes a check. Whatever it finds wrong is a lie: an error of class
// fault.Verification. Reading that fails is not.
func (c *checker) do(what string, f func() (string, error)) error {
	detail, err := f()
	if err == nil {
		c.add(what, OK, "%s", detail)
		return nil
	}
	if class := fault.ClassOf(err); class != fault.Environment && class != fault.Cancelled && !errors.Is(err, context.Canceled) {
		err = fault.Errorf(fault.Verification, "%s: %w", c.name(what), err)
		c.add(what, Failed, "%v", errors.Unwrap(err))
	}
	return err
}

func (c *checker) name(what string) string {
	if c.of == "" {
		return what
	}
	return c.of + ": " + what
}

// Bundle checks the bundle in dir. The report is what was looked at until the
// first lie, which is the error, of class fault.Verification.
func Bundle(ctx context.Context, dir string, o Options) (*Report, error) {
	c := &checker{tell: o.Tell}
	return &c.Report, c.bundle(ctx, dir, o.Key, o.Sigstore)
}

func (c *checker) bundle(ctx context.Context, dir string, key signature.Key, also *Sigstore) error {
	var offer signature.Offer
	var m *bundle.Manifest
	if _, err := os.Stat(filepath.Join(dir, bundle.ManifestFile)); errors.Is(err, fs.ErrNotExist) {
		_, err := bundle.Load(dir) // says so
		return err
	}
	err := c.do("manifest", func() (_ string, err error) {
		if offer, m, err = bundle.Offer(dir); err != nil {
			return "", err
		}
		canonical, err := bundle.Marshal(m)
		if err == nil && !bytes.Equal(canonical, offer.Manifest) {
			err = errors.New("it is not written as this program writes it")
		}
		return fmt.Sprintf("%s for %s, sha256:%x", m.Name, m.Arch, sha256.Sum256(offer.Manifest)), err
	})
	if err != nil {
		return err
	}
	c.Name = m.Name
	// First who vouches for it: nothing else is worth a look otherwise.
	signed, err := c.signature(offer, key)
	if err != nil {
		return err
	}
	if err := c.sigstore(ctx, also, offer.Manifest); err != nil {
		return err
	}
	if err := c.do("files", func() (string, error) { return files(ctx, dir, m) }); err != nil {
		return err
	}
	if err := c.do("sums", func() (string, error) { return sums(dir, m, offer.Manifest) }); err != nil {
		return err
	}
	if err := c.do("root hash", func() (string, error) { return rootHash(ctx, dir, m) }); err != nil {
		return err
	}
	return c.descriptions(ctx, dir, m, offer, signed)
}

// signature checks who has signed the bundle, nil for nobody.
func (c *checker) signature(offer signature.Offer, key signature.Key) (*signature.Signed, error) {
	if offer.Key == "" && offer.Signature == nil && key == "" {
		c.add("signature", Skipped, "the bundle names no key and has no signature: nobody vouches for it")
		return nil, nil
	}
	var signed *signature.Signed
	err := c.do("signature", func() (_ string, err error) {
		var trust *signature.Trust
		if key != "" {
			trust = &signature.Trust{Key: key}
		}
		if offer.Key == "" && key == "" {
			return "", errors.New("there is a signature, and the manifest names no key that it would have to be of")
		}
		if _, signed, err = trust.Accept(offer, time.Now()); err != nil {
			return "", err
		}
		whose := "the key that the bundle names itself: nobody said whose it has to be"
		switch {
		case key == signed.Key:
			whose = "the key that was given"
		case key != "":
			whose = fmt.Sprintf("to which the key that was given was rotated, by %d rotations", len(signed.Rotations))
		}
		return fmt.Sprintf("version %s, index %d, by %s, %s", signed.Version, signed.Index, signed.Key, whose), nil
	})
	if err == nil {
		c.Version, c.Index, c.Key = signed.Version, signed.Index, signed.Key
	}
	return signed, err
}

func files(ctx context.Context, dir string, m *bundle.Manifest) (string, error) {
	group, ctx := errgroup.WithContext(ctx)
	var size int64
	for _, a := range m.Artifacts {
		size += a.Size
		group.Go(func() error { return bundle.VerifyArtifact(ctx, dir, a) })
	}
	if err := group.Wait(); err != nil {
		return "", err
	}
	// Nothing else may lie there that somebody could take for a part of it.
	known := append(bundle.Descriptions(), bundle.ManifestFile, bundle.SumsFile, signature.FileName)
	for _, a := range m.Artifacts {
		known = append(known, a.File)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	for _, e := range entries {
		if !slices.Contains(known, e.Name()) {
			return "", fmt.Errorf("%s is no part of the bundle", e.Name())
		}
		if !e.Type().IsRegular() {
			return "", fmt.Errorf("%s is not a regular file", e.Name())
		}
	}
	return fmt.Sprintf("%d, %.1f MiB", len(m.Artifacts), float64(size)/(1<<20)), nil
}

// sums holds SHA256SUMS to the manifest: it is for other programs, and must not
// say anything else.
func sums(dir string, m *bundle.Manifest, manifest []byte) (string, error) {
	text, err := readFile(filepath.Join(dir, bundle.SumsFile))
	if err != nil {
		return "", err
	}
	lines := []string{fmt.Sprintf("%x  %s\n", sha256.Sum256(manifest), bundle.ManifestFile)}
	for _, a := range m.Artifacts {
		lines = append(lines, strings.TrimPrefix(a.Digest, "sha256:")+"  "+a.File+"\n")
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[64:], b[64:]) })
	if string(text) != strings.Join(lines, "") {
		return "", fmt.Errorf("%s does not say what the manifest does", bundle.SumsFile)
	}
	return fmt.Sprintf("%s, %d lines", bundle.SumsFile, len(lines)), nil
}

// rootHash computes the hash that the guest holds every block to.
func rootHash(ctx context.Context, dir string, m *bundle.Manifest) (string, error) {
	a, _ := m.Artifact(bundle.RoleRoot)
	f, err := os.Open(filepath.Join(dir, a.File))
	if err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	d, err := disk.Read(f)
	if err != nil {
		return "", err
	}
	part := func(label string) (io.ReaderAt, int64) {
		for _, p := range d.Partitions {
			if r, ok := p.Content.(io.ReaderAt); ok && p.Label == label {
				return r, p.Size
			}
		}
		return nil, 0
	}
	data, size := part("root")
	tree, _ := part("root-verity")
	if data == nil || tree == nil {
		return "", fmt.Errorf("%s has no partitions root and root-verity", a.File)
	}
	got, err := verity.Recompute(ctx, data, size, tree)
	if err != nil {
		return "", err
	}
	if got.String() != m.Root.Hash {
		return "", fmt.Errorf("the file system leads to %s, and the manifest says %s", got, m.Root.Hash)
	}
	if !slices.Contains(strings.Fields(m.VM.Cmdline), "roothash="+m.Root.Hash) {
		return "", errors.New("the kernel's command line has another one")
	}
	return m.Root.Hash, nil
}

// descriptions checks the files that describe the bundle: that the signature
// names them, and that they say what the bundle says.
func (c *checker) descriptions(ctx context.Context, dir string, m *bundle.Manifest, offer signature.Offer, signed *signature.Signed) error {
	texts := map[string][]byte{}
	for _, name := range bundle.Descriptions() {
		text, err := readFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		texts[name] = text
	}
	if signed != nil {
		err := c.do("descriptions", func() (string, error) {
			for name, text := range texts {
				if want, got := signed.File(name), fmt.Sprintf("sha256:%x", sha256.Sum256(text)); want == "" {
					return "", fmt.Errorf("%s is not under the signature", name)
				} else if want != got {
					return "", fmt.Errorf("%s is %s, and the signature names %s", name, got, want)
				}
			}
			for _, f := range signed.Files {
				if texts[f.Name] == nil {
					return "", fmt.Errorf("the signature names %s, which is not there", f.Name)
				}
			}
			return fmt.Sprintf("%d under the signature", len(texts)), nil
		})
		if err != nil {
			return err
		}
	}
	provenance, ok := texts[bundle.ProvenanceFile]
	if !ok {
		c.add("provenance", Skipped, "there is no %s", bundle.ProvenanceFile)
		c.add("bill of materials", Skipped, "it is made with the provenance")
		return nil
	}
	err := c.do("provenance", func() (string, error) {
		p, err := attest.ParseProvenance(bundle.ProvenanceFile, provenance, m, offer.Manifest)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d materials, lock %.19s…", len(p.Predicate.BuildDefinition.ResolvedDependencies), m.Lock.Digest), nil
	})
	if err != nil {
		return err
	}
	switch text, ok := texts[bundle.EnvelopeFile]; {
	case ok && signed == nil:
		c.add("envelope", Skipped, "without a key there is nothing to hold it to")
	case ok:
		err := c.do("envelope", func() (string, error) {
			return "DSSE, by the same key", attest.VerifyEnvelope(bundle.EnvelopeFile, text, provenance, signed.Key)
		})
		if err != nil {
			return err
		}
	default:
		c.add("envelope", Skipped, "there is no %s", bundle.EnvelopeFile)
	}
	if err := c.licenses(texts); err != nil {
		return err
	}
	if texts[bundle.SPDXFile] == nil && texts[bundle.CycloneDXFile] == nil {
		c.add("bill of materials", Skipped, "there is neither %s nor %s", bundle.SPDXFile, bundle.CycloneDXFile)
		return nil
	}
	for _, name := range []string{bundle.SPDXFile, bundle.CycloneDXFile} {
		if text, ok := texts[name]; ok {
			if form := sbom.FormOf(text); form > 0 && form != sbom.Form {
				c.add("bill of materials", Skipped, "%s has form %d, and this program makes form %d: it cannot be made anew to compare", name, form, sbom.Form)
				return nil
			}
		}
	}
	return c.do("bill of materials", func() (string, error) {
		bill, err := sbom.Collect(ctx, dir)
		if err != nil {
			return "", err
		}
		files, err := bill.Files()
		if err != nil {
			return "", err
		}
		for _, f := range files {
			if text, ok := texts[f.Name]; ok && !bytes.Equal(text, f.Text) {
				return "", fmt.Errorf("%s is not what the image makes it", f.Name)
			}
		}
		return fmt.Sprintf("%d components, as found in the image", len(bill.Components)), nil
	})
}

// licenses holds the two files with licences to each other. That they are of this
// image the bill of materials says, and that they are what the sources have, a
// rebuild.
func (c *checker) licenses(texts map[string][]byte) error {
	list, text := texts[bundle.LicensesFile], texts[bundle.LicenseTextsFile]
	switch form := licenses.FormOf(list); {
	case list == nil && text == nil:
		c.add("licences", Skipped, "there is neither %s nor %s", bundle.LicensesFile, bundle.LicenseTextsFile)
		return nil
	case list != nil && form > 0 && form != licenses.Form:
		c.add("licences", Skipped, "%s has form %d, and this program reads form %d", bundle.LicensesFile, form, licenses.Form)
		return nil
	}
	return c.do("licences", func() (string, error) {
		if list == nil || text == nil {
			return "", fmt.Errorf("of %s and %s there is only one", bundle.LicensesFile, bundle.LicenseTextsFile)
		}
		l, err := licenses.Check(list, text)
		if err != nil {
			return "", err
		}
		bare := 0
		for _, v := range l.Components {
			if len(v.Files) == 0 {
				bare++
			}
		}
		return fmt.Sprintf("%d texts of %d components, %d of them without any", len(l.Texts), len(l.Components), bare), nil
	})
}

// readFile reads a file that may not be large.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, bundle.MaxDescription+1))
	if err == nil && len(text) > bundle.MaxDescription {
		return nil, fault.Errorf(fault.Verification, "%s is larger than %d bytes", path, bundle.MaxDescription)
	}
	return text, fault.Wrap(fault.Environment, err)
}
