package engine

import (
	"context"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/client"
	// Each registers the dialer of its scheme.
	_ "github.com/moby/buildkit/client/connhelper/dockercontainer"
	_ "github.com/moby/buildkit/client/connhelper/kubepod"
	_ "github.com/moby/buildkit/client/connhelper/podmancontainer"
	_ "github.com/moby/buildkit/client/connhelper/ssh"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/remedy"
)

// dialTimeout is how long a remote engine has to answer.
const dialTimeout = 20 * time.Second

// minVersion is the oldest BuildKit tried. Much older ones do not know single
// blobs of an OCI store as sources.
const minVersion = "v0.34"

func schemes() []string {
	return []string{"docker-container", "kube-pod", "podman-container", "ssh", "tcp", "unix"}
}

// checkAddress refuses what cannot work, and a tcp address that anybody on the
// way could answer: what an engine gives back is trusted as it is.
func checkAddress(address string, t TLS) error {
	if address == "" {
		if t != (TLS{}) {
			return remedy.By(remedy.Remedy{Kind: remedy.UseEngine},
				fault.Errorf(fault.Usage, "certificates are for an engine at a tcp:// address, and none is given").
					Hintf("give the engine's address, tcp://HOST:PORT"))
		}
		return nil
	}
	u, err := url.Parse(address)
	if err != nil || !slices.Contains(schemes(), u.Scheme) || u.Host == "" && u.Path == "" {
		return fault.Errorf(fault.Usage, "engine address %q: want SCHEME://… with one of %s", address, strings.Join(schemes(), ", "))
	}
	if u.Scheme != "tcp" {
		if t != (TLS{}) {
			return fault.Errorf(fault.Usage, "engine address %q: certificates are for tcp:// only", address)
		}
		return nil
	}
	if (t.Cert == "") != (t.Key == "") {
		return fault.Errorf(fault.Usage, "engine %s: a client certificate and its key go together", address)
	}
	for _, file := range []string{t.CA, t.Cert, t.Key} {
		if file == "" {
			continue
		}
		if _, err := os.Stat(file); err != nil {
			return fault.Errorf(fault.Usage, "engine %s: %w", address, err)
		}
	}
	ip := net.ParseIP(u.Hostname())
	if loopback := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback(); !loopback && (t.CA == "" || t.Cert == "") {
		return remedy.By(remedy.Remedy{Kind: remedy.GiveCertificates},
			fault.Errorf(fault.Usage, "engine %s is not on this machine and has no certificates", address).
				Hintf("give the CA, the client's certificate and its key"))
	}
	return nil
}

// dial connects to a remote engine and asks for its version, so that a wrong
// address is found here and not in the first step.
func dial(ctx context.Context, address string, t TLS) (*client.Client, error) {
	var opts []client.ClientOpt
	if t.CA != "" {
		opts = append(opts, client.WithServerConfig(t.ServerName, t.CA))
	}
	if t.Cert != "" {
		opts = append(opts, client.WithCredentials(t.Cert, t.Key))
	}
	fail := func(err error) error {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return fault.Errorf(fault.Environment, "engine %s: %v", address, err).
			Hintf("check the address and that a BuildKit of %s or newer listens there", minVersion)
	}
	c, err := client.New(ctx, address, opts...)
	if err != nil {
		return nil, fail(err)
	}
	probe, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if _, err := c.Info(probe); err != nil {
		c.Close()
		return nil, fail(err)
	}
	return c, nil
}
