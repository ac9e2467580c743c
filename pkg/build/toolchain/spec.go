package toolchain

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// SpecFile is the name of the file in a recipe's toolchain directory.
const SpecFile = "image.yaml"

// MaxSpec bounds an image.yaml, in bytes.
const MaxSpec = 64 << 10

const maxPackages = 500

// Spec is image.yaml.
type Spec struct {
	// Suite of Debian, one whose packages do not move: "bookworm".
	Suite string `yaml:"suite"`
	// Packages asked for; essential packages and dependencies come by
	// themselves, recommendations do not.
	Packages []string `yaml:"packages"`
}

// ParseSpec reads an image.yaml; path is its name in errors, which are of class
// fault.Usage and begin with file:line:column where they have a place.
func ParseSpec(path string, data []byte) (Spec, error) {
	if len(data) > MaxSpec {
		return Spec{}, fault.Errorf(fault.Usage, "%s: longer than %d bytes", path, MaxSpec)
	}
	var s Spec
	if err := yaml.NewDecoder(bytes.NewReader(data), yaml.Strict()).Decode(&s); err != nil {
		var at yaml.Error
		if errors.As(err, &at) && at.GetToken() != nil {
			p := at.GetToken().Position
			return Spec{}, fault.Errorf(fault.Usage, "%s:%d:%d: %s", path, p.Line, p.Column, at.GetMessage()).
				Hintf("known keys are suite and packages")
		}
		if errors.Is(err, io.EOF) {
			return Spec{}, fault.Errorf(fault.Usage, "%s: empty", path)
		}
		return Spec{}, fault.Errorf(fault.Usage, "%s: %s", path, strings.ReplaceAll(err.Error(), "\n", " "))
	}
	return s, s.check(path)
}

func (s Spec) check(path string) error {
	// Debian policy 5.6.7, and the same letters for suites.
	name := regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]{1,100}$`)
	if !name.MatchString(s.Suite) {
		return fault.Errorf(fault.Usage, "%s: suite %q: want a name like bookworm", path, s.Suite)
	}
	if len(s.Packages) == 0 || len(s.Packages) > maxPackages {
		return fault.Errorf(fault.Usage, "%s: %d packages, want 1 to %d", path, len(s.Packages), maxPackages)
	}
	seen := map[string]bool{}
	for i, p := range s.Packages {
		switch {
		case !name.MatchString(p):
			return fault.Errorf(fault.Usage, "%s: packages[%d]: %q is not the name of a Debian package", path, i, p)
		case seen[p]:
			return fault.Errorf(fault.Usage, "%s: packages[%d]: %s is there twice", path, i, p)
		}
		seen[p] = true
	}
	return nil
}

// String is for messages.
func (s Spec) String() string { return fmt.Sprintf("%d packages of %s", len(s.Packages), s.Suite) }
