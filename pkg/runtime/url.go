package runtime

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

var reference = regexp.MustCompile(`\$\{(address|secret:([^}]+))\}`)

// URL is how a client on this machine reaches a port of the guest, secrets
// included: do not log it. port 0 is the first that has a URL in the manifest.
// The machine must run and its agent answer before ctx ends.
func (i *Instance) URL(ctx context.Context, port int) (string, error) {
	p, err := i.urlPort(port)
	if err != nil {
		return "", err
	}
	if err := i.mustRun(ctx); err != nil {
		return "", err
	}
	host, ok := i.HostPort(p.Port)
	if !ok {
		return "", fault.Errorf(fault.Internal, "%s: port %d of the manifest is not forwarded", i.Name(), p.Port)
	}
	secrets, err := i.secrets(ctx, p)
	if err != nil {
		return "", err
	}
	return expand(p.URL, net.JoinHostPort("127.0.0.1", strconv.Itoa(host)), secrets), nil
}

// DSN is URL under the name that people look for in a database's machine.
func (i *Instance) DSN(ctx context.Context) (string, error) { return i.URL(ctx, 0) }

func (i *Instance) urlPort(port int) (bundle.Port, error) {
	for _, p := range i.manifest.Ports {
		if p.URL != "" && (port == 0 || p.Port == port) {
			return p, nil
		}
	}
	if port == 0 {
		return bundle.Port{}, fault.Errorf(fault.Usage, "%s has no port with a URL", i.Name()).
			Hintf("give a port of the recipe a url")
	}
	return bundle.Port{}, fault.Errorf(fault.Usage, "%s has no port %d with a URL", i.Name(), port).
		Hintf("choose another port, or give this one a url in the recipe")
}

// secrets asks the guest for those that the port's URL names.
func (i *Instance) secrets(ctx context.Context, p bundle.Port) (map[string]string, error) {
	values := map[string]string{}
	refs := reference.FindAllStringSubmatch(p.URL, -1)
	var s *session
	for _, ref := range refs {
		name := ref[2]
		if _, have := values[name]; name == "" || have {
			continue
		}
		if s == nil {
			var err error
			if s, err = i.session(ctx); err != nil {
				return nil, err
			}
			defer s.Close()
		}
		v, err := s.Secret(ctx, p.Service, name)
		if err != nil {
			return nil, fault.Wrap(fault.Device, fmt.Errorf("secret %s of %s: %w", name, p.Service, err))
		}
		values[name] = v
	}
	return values, nil
}

// expand fills a URL in. Secrets are percent-encoded so that they stand as
// they are wherever in a URL they are put.
func expand(url, address string, secrets map[string]string) string {
	return reference.ReplaceAllStringFunc(url, func(ref string) string {
		m := reference.FindStringSubmatch(ref)
		if m[1] == "address" {
			return address
		}
		return encode(secrets[m[2]])
	})
}

// encode escapes all but RFC 3986's unreserved characters.
func encode(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
