package torture

import (
	"context"
	"errors"
	"fmt"
	"net"

	"path/filepath"
	"regexp"
	"strconv"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	engine "github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// tell speaks with the guest's agent.
func (m *machine) tell(ctx context.Context, say func(*engine.Agent) error) error {
	a, err := m.inst.Agent(ctx)
	if err != nil {
		return err
	}
	return errors.Join(say(a), a.Close())
}

// exec runs a program in the guest as root.
func (m *machine) exec(ctx context.Context, argv []string, std agent.ExecIO) (code int, err error) {
	err = m.tell(ctx, func(a *engine.Agent) (err error) {
		code, err = a.Exec(ctx, agent.ExecRequest{Argv: argv}, std)
		return err
	})
	return code, err
}

// reference is what stands in a manifest's URL for something else.
var reference = regexp.MustCompile(`\$\{([a-z]+)(?::([^}]*))?\}`)

// findDSN fills in the URL of the database's port, with what the guest says.
func (m *machine) findDSN(ctx context.Context) (dsn string, err error) {
	var port bundle.Port
	for _, p := range m.l.manifest.Ports {
		if p.URL != "" {
			port = p
			break
		}
	}
	host, ok := m.inst.HostPort(port.Port)
	if !ok {
		return "", fault.Errorf(fault.Usage, "torture: the bundle has no port with a URL")
	}
	err = m.tell(ctx, func(a *engine.Agent) error {
		var errs []error
		dsn = reference.ReplaceAllStringFunc(port.URL, func(text string) string {
			kind, name := reference.FindStringSubmatch(text)[1], reference.FindStringSubmatch(text)[2]
			value, err := m.refer(ctx, a, port.Service, kind, name, host)
			errs = append(errs, err)
			return value
		})
		return errors.Join(errs...)
	})
	return dsn, err
}

// refer is what stands for a reference.
func (m *machine) refer(ctx context.Context, a *engine.Agent, service, kind, name string, port int) (string, error) {
	switch kind {
	case "address":
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), nil
	case "secret":
		value, err := a.Secret(ctx, service, name)
		return escapeAll(value), err
	case "certificate":
		text, err := a.Secret(ctx, service, name+".crt")
		path := filepath.Join(m.dir, name+".crt")
		if err == nil {
			err = atomicfile.Write(path, []byte(text), 0o600)
		}
		return escapeAll(path), err
	}
	return "", fault.Errorf(fault.Usage, "torture: the bundle's URL has the unknown %s", kind)
}

// escapeAll writes every byte as RFC 3986 has those that mean something.
func escapeAll(s string) string {
	out := make([]byte, 0, 3*len(s))
	for i := range len(s) {
		out = fmt.Appendf(out, "%%%02X", s[i])
	}
	return string(out)
}
