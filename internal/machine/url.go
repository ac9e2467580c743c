package machine

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

// reference is what stands in a URL for "address", "secret:NAME" or
// "certificate:NAME"; package bundle has seen that there is nothing else.
var reference = regexp.MustCompile(`\$\{([a-z]+)(?::([^}]*))?\}`)

// Kinds of references.
const (
	addressReference     = "address"
	secretReference      = "secret"
	certificateReference = "certificate"
)

// URL is how a client on this machine reaches a port of the guest, secrets
// included: do not log it. port 0 is the first that has a URL in the manifest.
// The machine must run and its agent answer before ctx ends.
//
// Where the URL names a certificate of the service, that is fetched and kept in
// the instance's directory, so that the client can tell the guest from whoever
// else may have the port. A client that keeps the URL meets an error of its own
// after the guest has made a new one; URL, called again, gives it that.
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
	values := map[string]string{"${" + addressReference + "}": net.JoinHostPort("127.0.0.1", strconv.Itoa(host))}
	if err := i.lookUp(ctx, p, values); err != nil {
		return "", err
	}
	return reference.ReplaceAllStringFunc(p.URL, func(ref string) string { return values[ref] }), nil
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

// lookUp adds what the guest has for the references of the port's URL. Values
// are percent-encoded so that they stand as they are wherever in a URL they are
// put; the slashes of a file are left for people to read it.
func (i *Instance) lookUp(ctx context.Context, p bundle.Port, values map[string]string) error {
	var s *session
	for _, m := range reference.FindAllStringSubmatch(p.URL, -1) {
		ref, kind, name := m[0], m[1], m[2]
		if _, have := values[ref]; have {
			continue
		}
		if s == nil {
			var err error
			if s, err = i.session(ctx); err != nil {
				return err
			}
			defer s.Close()
		}
		switch kind {
		case secretReference:
			v, err := s.Secret(ctx, p.Service, name)
			if err != nil {
				return fault.Wrap(fault.Device, fmt.Errorf("secret %s of %s: %w", name, p.Service, err))
			}
			values[ref] = encode(v, unreserved)
		case certificateReference:
			path, err := i.certificate(ctx, s, p.Service, name)
			if err != nil {
				return err
			}
			values[ref] = encode(path, unreserved+"/")
		default:
			return fault.Errorf(fault.Internal, "the URL of %s's port %d has the unknown %s", i.Name(), p.Port, ref)
		}
	}
	return nil
}

// unreserved are RFC 3986's characters that mean themselves everywhere, beside
// letters and digits.
const unreserved = "-._~"

// encode escapes all but letters, digits and the characters of plain.
func encode(s, plain string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte(plain, c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
