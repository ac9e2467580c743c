package oci

import (
	"os"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// choice is which image of several is meant: the one of a digest or of a name,
// or any.
type choice struct {
	digest v1.Hash
	name   string
}

func (c choice) isZero() bool { return c == choice{} }

func (c choice) String() string {
	if c.name != "" {
		return c.name
	}
	return c.digest.String()
}

// splitChoice cuts a choice off the end of a path. What is in front of it has
// to be there: a path may have an @ in it.
func splitChoice(source string) (string, choice, error) {
	i := strings.LastIndexByte(source, '@')
	if _, err := os.Stat(source); err == nil || i < 0 {
		return source, choice{}, nil
	}
	name, text := source[:i], source[i+1:]
	if _, err := os.Stat(name); err != nil || text == "" {
		return source, choice{}, nil
	}
	if !strings.HasPrefix(text, "sha256:") {
		return name, choice{name: text}, nil
	}
	digest, err := v1.NewHash(text)
	if err != nil {
		return "", choice{}, fault.Errorf(fault.Usage, "%s: %w", source, err)
	}
	return name, choice{digest: digest}, nil
}

// sameTag says whether two spellings mean one tag of docker's: without a host
// it is Docker's own, without a tag "latest".
func sameTag(a, b string) bool { return plainTag(a) == plainTag(b) }

func plainTag(tag string) string {
	tag = strings.TrimPrefix(strings.TrimPrefix(tag, "docker.io/"), "library/")
	if !strings.Contains(tag[strings.LastIndexByte(tag, '/')+1:], ":") {
		tag += ":latest"
	}
	return tag
}

// notThere is the error of a choice that no image is.
func notThere(source string, want choice, names []string) error {
	e := fault.Errorf(fault.Source, "%s: no image %s is in it", source, want)
	if len(names) == 0 {
		return e
	}
	slices.Sort(names)
	return e.Hintf("choose one of these: %s", strings.Join(slices.Compact(names), ", "))
}
