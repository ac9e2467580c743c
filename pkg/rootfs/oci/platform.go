package oci

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sovereign-build/sovereign/pkg/arch"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Bounds of an index: nested ones, and manifests in all of them.
const (
	maxNesting   = 4
	maxManifests = 1024
)

var platformWord = regexp.MustCompile(`^[a-z0-9._]{1,32}$`)

// ParsePlatform reads OS/ARCH or OS/ARCH/VARIANT in Go's names; the names
// that uname has for amd64 and arm64 are understood too.
func ParsePlatform(s string) (v1.Platform, error) {
	words := strings.Split(s, "/")
	for _, w := range words {
		if !platformWord.MatchString(w) {
			words = nil
		}
	}
	if len(words) < 2 || len(words) > 3 {
		return v1.Platform{}, fault.Errorf(fault.Usage, "platform %q is not OS/ARCH or OS/ARCH/VARIANT", s).
			Hintf("write it like linux/arm64")
	}
	p := v1.Platform{OS: words[0], Architecture: words[1]}
	if len(words) == 3 {
		p.Variant = words[2]
	}
	return normal(p), nil
}

// normal gives a platform one spelling: 64-bit ARM has one variant in use,
// which most images leave out, and 32-bit ARM means version 7 where it says
// nothing, as containerd has it.
func normal(p v1.Platform) v1.Platform {
	if a, ok := arch.OfUname(p.Architecture); ok {
		p.Architecture = a.Go
	}
	switch {
	case p.Architecture == "arm64" && p.Variant == "v8", p.Architecture == "amd64" && p.Variant == "v1":
		p.Variant = ""
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = "v7"
	}
	return v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
}

// candidate is a manifest an index leads to.
type candidate struct {
	desc     v1.Descriptor
	platform v1.Platform
	// name chooses it, behind the source and an @; "" is the digest's.
	name string
	// missing: it is listed and not there. Without a platform in its
	// descriptor nobody knows what it is for.
	missing bool
}

func (c candidate) label() string { return cmp.Or(c.name, c.desc.Digest.String()) }

// candidates collects the image manifests that the descriptors lead to.
func candidates(ctx context.Context, b blobs, descs []v1.Descriptor, depth int, found []candidate) ([]candidate, error) {
	for _, d := range descs {
		if len(found) >= maxManifests {
			return nil, fault.Errorf(fault.Source, "index: more than %d manifests", maxManifests)
		}
		switch {
		case d.Annotations["vnd.docker.reference.type"] != "":
			// An attestation about a manifest, which BuildKit keeps beside it.
		case (d.MediaType.IsIndex() || d.MediaType.IsImage()) && !b.holds(d):
			c := candidate{desc: d, missing: true}
			if d.Platform != nil {
				c.platform = normal(*d.Platform)
			}
			found = append(found, c)
		case d.MediaType.IsIndex():
			if depth >= maxNesting {
				return nil, fault.Errorf(fault.Source, "index %s: more than %d indexes in one another", d.Digest, maxNesting)
			}
			raw, err := readBlob(ctx, b, d)
			if err != nil {
				return nil, err
			}
			index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
			if err != nil {
				return nil, fault.Errorf(fault.Source, "index %s: %w", d.Digest, err)
			}
			if found, err = candidates(ctx, b, index.Manifests, depth+1, found); err != nil {
				return nil, err
			}
		case d.MediaType.IsImage():
			c := candidate{desc: d}
			if d.Platform != nil {
				c.platform = *d.Platform
			} else {
				_, config, err := readConfig(ctx, b, d)
				if errors.Is(err, errArtifact) && len(descs) > 1 {
					continue // a signature or the like, beside images
				}
				if errors.Is(err, fs.ErrNotExist) {
					found = append(found, candidate{desc: d, missing: true})
					continue
				}
				if err != nil {
					return nil, err
				}
				c.platform = v1.Platform{OS: config.OS, Architecture: config.Architecture, Variant: config.Variant}
			}
			c.platform = normal(c.platform)
			found = append(found, c)
		}
	}
	return found, nil
}

// pick chooses the manifest for a platform; a zero platform takes the only
// one there is.
func pick(source string, found []candidate, want v1.Platform) (v1.Descriptor, error) {
	anything := want.OS == "" && want.Architecture == ""
	want = normal(want)
	var match, held []candidate
	missing := false
	for _, c := range found {
		if !c.missing {
			held = append(held, c)
		}
		switch {
		case !anything && !c.platform.Equals(want):
		case c.missing:
			missing = true
		case !slices.ContainsFunc(match, func(m candidate) bool { return m.desc.Digest == c.desc.Digest }):
			match = append(match, c)
		}
	}
	switch {
	case len(match) == 1:
		return match[0].desc, nil
	case len(match) > 1:
		return v1.Descriptor{}, ambiguous(source, match)
	case len(found) == 0:
		return v1.Descriptor{}, fault.Errorf(fault.Source, "%s: there is no image in it", source)
	case missing && anything:
		return v1.Descriptor{}, fault.Errorf(fault.Source, "%s: it lists images and holds none of them", source).
			Hintf("pull the image for a platform and save it again")
	case missing:
		return v1.Descriptor{}, fault.Errorf(fault.Source, "%s: it lists an image for %s and does not hold it%s", source, want, others(held)).
			Hintf("pull the image for %s and save it again", want)
	}
	return v1.Descriptor{}, fault.Errorf(fault.Source, "%s: no image for %s%s", source, want, others(held)).
		Hintf("ask for one of these platforms")
}

// ambiguous is the error of more than one image, which says how to choose.
func ambiguous(source string, match []candidate) error {
	labels := make([]string, len(match))
	for i, m := range match {
		labels[i] = m.label()
	}
	slices.Sort(labels)
	platforms := list(match)
	e := fault.Errorf(fault.Usage, "%s: %d images for %s: %s", source, len(match), platforms, strings.Join(labels, ", "))
	if strings.Contains(platforms, ", ") {
		return e.Hintf("choose one by platform, or as %s@%s", source, labels[0])
	}
	return e.Hintf("choose one, as %s@%s", source, labels[0])
}

// others ends a message about a platform that is not there.
func others(held []candidate) string {
	if platforms := list(held); platforms != "" {
		return "; there is " + platforms
	}
	return ""
}

// list names the platforms of images.
func list(found []candidate) string {
	var words []string
	for _, c := range found {
		words = append(words, c.platform.String())
	}
	slices.Sort(words)
	return strings.Join(slices.Compact(words), ", ")
}
