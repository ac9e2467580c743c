package bundle

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/arch"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

var (
	nameForm   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	fileForm   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)
	digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	hashForm   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	// virtio-blk carries 20 bytes of serial.
	serialForm = regexp.MustCompile(`^[A-Za-z0-9._-]{1,20}$`)
	// 42 bytes in base64, of which the first two are "Ed".
	keyForm = regexp.MustCompile(`^RW[A-Za-z0-9+/]{54}$`)
	urlForm = regexp.MustCompile(`\$\{([^}]*)\}?`)
)

// maxSize bounds one artifact and the data disk: 1 PiB, far above any phone
// and far below where sums of sizes overflow.
const maxSize = 1 << 50

// maxUnpinned is the most packages an image may have from outside a lock.
const maxUnpinned = 10_000

// Check says whether every value is in its range; a manifest from Load or
// Parse has passed it. Errors are of class fault.Usage and name the key.
func (m *Manifest) Check() error {
	return m.check(func(path, format string, args ...any) error {
		return fault.Errorf(fault.Usage, "manifest: %s: "+format, append([]any{path}, args...)...)
	})
}

type reporter func(path, format string, args ...any) error

func (m *Manifest) check(fail reporter) error {
	switch {
	case m.Schema != Schema:
		return fail("schema", "%d is not %d, the only version this program reads", m.Schema, Schema)
	case !nameForm.MatchString(m.Name):
		return fail("name", "%q is not lower case letters, digits and dashes, beginning with a letter, at most 32", m.Name)
	case !slices.Contains(arch.Names(), m.Arch):
		return fail("arch", "%q is not %s", m.Arch, arch.Choice())
	case m.SourceDate < 0 || m.SourceDate > 1<<40:
		return fail("source_date", "%d is not a time in seconds since 1970", m.SourceDate)
	case !digestForm.MatchString(m.Lock.Digest):
		return fail("lock.digest", "%q is not sha256: and 64 hex digits", m.Lock.Digest)
	case m.Release != nil && !keyForm.MatchString(m.Release.Key):
		return fail("release.key", "%q is not the public key of minisign", m.Release.Key)
	case !serialForm.MatchString(m.Root.Serial):
		return fail("root.serial", "%q is not 1 to 20 letters, digits, dots and dashes", m.Root.Serial)
	case !hashForm.MatchString(m.Root.Hash):
		return fail("root.hash", "%q is not 64 hex digits", m.Root.Hash)
	}
	if n := len(m.Lock.Unpinned); n > maxUnpinned {
		return fail("lock.unpinned", "%d are more than %d", n, maxUnpinned)
	}
	if err := m.checkArtifacts(fail); err != nil {
		return err
	}
	if err := m.checkVM(fail); err != nil {
		return err
	}
	return m.checkServices(fail)
}

func (m *Manifest) checkArtifacts(fail reporter) error {
	if len(m.Artifacts) > 64 {
		return fail("artifacts", "%d are more than 64", len(m.Artifacts))
	}
	roles := map[string]int{}
	for i, a := range m.Artifacts {
		at := fmt.Sprintf("artifacts[%d]", i)
		switch {
		case !fileForm.MatchString(a.File) || a.File == ManifestFile || a.File == SumsFile:
			return fail(at+".file", "%q is not the plain name of an artifact", a.File)
		case i > 0 && a.File <= m.Artifacts[i-1].File:
			return fail(at+".file", "%q is not sorted behind %q", a.File, m.Artifacts[i-1].File)
		case a.Role == "":
			return fail(at+".role", "it is empty")
		case !digestForm.MatchString(a.Digest):
			return fail(at+".digest", "%q is not sha256: and 64 hex digits", a.Digest)
		case a.Size < 0 || a.Size > maxSize:
			return fail(at+".size", "%d is not a size", a.Size)
		}
		roles[a.Role]++
	}
	for _, role := range []string{RoleKernel, RoleInitramfs, RoleRoot} {
		if roles[role] != 1 {
			return fail("artifacts", "%d have the role %q, and exactly one must", roles[role], role)
		}
	}
	return nil
}

func (m *Manifest) checkVM(fail reporter) error {
	vm := m.VM
	switch {
	case vm.MemoryMiB < 64 || vm.MemoryMiB > 1<<20:
		return fail("vm.memory_mib", "%d is not from 64 to 1048576", vm.MemoryMiB)
	case vm.CPUs < 1 || vm.CPUs > 64:
		return fail("vm.cpus", "%d is not from 1 to 64", vm.CPUs)
	// COMMAND_LINE_SIZE is 2048 on both architectures, and the driver adds
	// console and network.
	case len(vm.Cmdline) > 1536:
		return fail("vm.cmdline", "%d bytes are more than 1536", len(vm.Cmdline))
	case strings.ContainsFunc(vm.Cmdline, func(r rune) bool { return r < ' ' || r > '~' }):
		return fail("vm.cmdline", "it holds a character that is not printable ASCII")
	case !serialForm.MatchString(vm.Data.Serial):
		return fail("vm.data.serial", "%q is not 1 to 20 letters, digits, dots and dashes", vm.Data.Serial)
	case vm.Data.Serial == m.Root.Serial:
		return fail("vm.data.serial", "%q is the root disk's serial too", vm.Data.Serial)
	case vm.Data.Size < 1<<20 || vm.Data.Size > maxSize || vm.Data.Size%512 != 0:
		return fail("vm.data.size", "%d is not a multiple of 512 from 1 MiB to 1 PiB", vm.Data.Size)
	}
	return nil
}

func (m *Manifest) checkServices(fail reporter) error {
	switch {
	case len(m.Services) > 256:
		return fail("services", "%d are more than 256", len(m.Services))
	case len(m.Ports) > 256:
		return fail("ports", "%d are more than 256", len(m.Ports))
	case len(m.Packages) > 20000:
		return fail("packages", "%d are more than 20000", len(m.Packages))
	}
	services := map[string]bool{}
	for i, s := range m.Services {
		if !nameForm.MatchString(s) || services[s] {
			return fail(fmt.Sprintf("services[%d]", i), "%q is not a service's name of its own", s)
		}
		services[s] = true
	}
	ports := map[int]bool{}
	for i, p := range m.Ports {
		at := fmt.Sprintf("ports[%d]", i)
		switch {
		case p.Port < 1 || p.Port > 65535 || ports[p.Port]:
			return fail(at+".port", "%d is not a TCP port of its own", p.Port)
		case !services[p.Service]:
			return fail(at+".service", "%q is not among the services", p.Service)
		case len(p.URL) > 1024:
			return fail(at+".url", "%d bytes are more than 1024", len(p.URL))
		}
		ports[p.Port] = true
		if err := checkURL(p.URL); err != nil {
			return fail(at+".url", "%w", err)
		}
	}
	return nil
}

func checkURL(s string) error {
	if s == "" {
		return nil
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return errors.New("it holds a character that is not printable ASCII")
	}
	for _, ref := range urlForm.FindAllStringSubmatch(s, -1) {
		kind, name, named := strings.Cut(ref[1], ":")
		known := kind == "address" && !named || (kind == "secret" || kind == "certificate") && fileForm.MatchString(name)
		if !strings.HasSuffix(ref[0], "}") || !known {
			return fmt.Errorf("%q is neither ${address} nor ${secret:NAME} nor ${certificate:NAME}", ref[0])
		}
	}
	u, err := url.Parse(urlForm.ReplaceAllString(s, "x"))
	if err != nil || u.Scheme == "" || u.Host == "" {
		return fmt.Errorf("%q is not a URL", s)
	}
	return nil
}

// Artifact returns the artifact of a role.
func (m *Manifest) Artifact(role string) (Artifact, bool) {
	for _, a := range m.Artifacts {
		if a.Role == role {
			return a, true
		}
	}
	return Artifact{}, false
}

// Port returns the port with the number.
func (m *Manifest) Port(number int) (Port, bool) {
	for _, p := range m.Ports {
		if p.Port == number {
			return p, true
		}
	}
	return Port{}, false
}
