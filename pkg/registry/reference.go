package registry

import (
	"net"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Parse reads HOST[:PORT]/NAME[:TAG][@DIGEST]. The tag is "latest" where
// neither is given; the registry must be named, so that a mistyped path is
// never taken for a repository on somebody's default registry. Errors are of
// class fault.Usage and do not repeat a user name and password.
func Parse(ref string) (name.Reference, error) {
	host, rest, ok := strings.Cut(ref, "/")
	if strings.Contains(host, "@") && ok {
		return nil, fault.Errorf(fault.Usage, "a reference to a registry must not hold a user or password").
			Hintf("log in with docker login, podman login or crane auth login, and leave them out")
	}
	if !ok || rest == "" || host != "localhost" && !strings.ContainsAny(host, ".:") {
		return nil, fault.Errorf(fault.Usage, "reference %q does not name a registry", ref).
			Hintf("write it as HOST/NAME:TAG or HOST/NAME@sha256:DIGEST")
	}
	// The library takes a tag beside a digest for decoration; so does this.
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "reference %q: %w", ref, err).
			Hintf("write it as HOST/NAME:TAG or HOST/NAME@sha256:DIGEST")
	}
	return r, nil
}

// isLoopback says whether a host, without port, is this machine by its
// address or by the name that stands for it (RFC 6761, 6.3).
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
