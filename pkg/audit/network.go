package audit

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// firstUnprivileged is the first port that a process without privileges may
// bind, on Android as anywhere.
const firstUnprivileged = 1024

const bindCapability = "NET_BIND_SERVICE"

func unprivilegedPorts(f *Facts) verdict {
	const mend = "have the service listen on a port from 1024 on, and the way to it lead there"
	if f.Manifest == nil {
		return unproven("", "the manifest is not known")
	}
	var ports []string
	for _, p := range f.Manifest.Ports {
		ports = append(ports, fmt.Sprintf("%s %d", p.Service, p.Port))
		if p.Port < firstUnprivileged {
			return failed(fmt.Sprintf("%s has the port %d", p.Service, p.Port), "it needs a privilege").by(Rebuild, mend)
		}
	}
	k := f.Image.Spec
	if !k.Seen {
		return notSeen("the guest spec", k)
	}
	for _, s := range k.Value.Services {
		if slices.Contains(s.Capabilities, bindCapability) {
			return failed(s.Name+" has the capability "+bindCapability, "it could take any port").by(Rebuild, "%s, and take the capability out of the recipe", mend)
		}
	}
	seen := "ports " + few(ports) + "; no service has " + bindCapability
	if len(ports) == 0 {
		seen = "no ports; no service has " + bindCapability
	}
	if f.Machine == nil {
		return proven("%s", seen)
	}
	m := f.Machine
	switch {
	case !m.Listeners.Seen:
		return notSeen("the sockets that listen", m.Listeners)
	case !m.UnprivilegedFrom.Seen:
		return notSeen("net.ipv4.ip_unprivileged_port_start", m.UnprivilegedFrom)
	}
	var listening []string
	for _, l := range m.Listeners.Value {
		text := fmt.Sprintf("%d (user %d)", l.Port, l.UID)
		if l.Port < firstUnprivileged {
			return failed("a socket listens at port "+text, "it needs a privilege").by(Rebuild, mend)
		}
		if !slices.Contains(listening, text) {
			listening = append(listening, text)
		}
	}
	for _, p := range f.Manifest.Ports {
		if !slices.ContainsFunc(m.Listeners.Value, func(l Listener) bool { return l.Port == p.Port }) {
			return unproven(seen, "nobody listens at the port %d of %s now", p.Port, p.Service)
		}
	}
	return proven("%s; listening at %s; ports from %d on need no privilege", seen, few(listening), m.UnprivilegedFrom.Value)
}

// database is the service with PostgreSQL's ports.
func (f *Facts) databasePorts() (ports []int) {
	for _, p := range f.Manifest.Ports {
		if strings.HasPrefix(p.URL, "postgres") {
			ports = append(ports, p.Port)
		}
	}
	return ports
}

func tailscaleServe(f *Facts) verdict {
	if !f.has("tailscale") {
		return inapplicable("", "the image has no tailscale")
	}
	ports := f.databasePorts()
	if len(ports) == 0 {
		return inapplicable("", "the image has no port of a database")
	}
	if f.Machine == nil {
		return needsRun("the package tailscale is in the image")
	}
	k := f.Machine.Tailnet
	if !k.Seen {
		return notSeen("tailscaled", k)
	}
	seen := "tailscaled is " + k.Value.State
	if k.Value.State != "Running" {
		return unproven(seen, "the machine is in no tailnet").by(GiveAuthKey, "hand an auth key over, and audit again")
	}
	for _, p := range ports {
		to := k.Value.Served[p]
		if !strings.HasSuffix(to, ":"+strconv.Itoa(p)) {
			return failed(fmt.Sprintf("%s, and serves nothing at port %d", seen, p), "the database cannot be reached in the tailnet").
				by(ReadLog, "read the log of the service tailscale: lo must be up, and nothing else may have the port on the wildcard address")
		}
		seen += fmt.Sprintf(", %d leads to %s", p, to)
	}
	return proven("%s", seen)
}

// tunFlag is tailscaled's: a device, and what comes after it where it cannot be
// had.
const (
	tunFlag       = "--tun="
	userspaceMode = "userspace-networking"
)

func userspaceFallback(f *Facts) verdict {
	if !f.has("tailscale") {
		return inapplicable("", "the image has no tailscale")
	}
	if !f.Image.Spec.Seen {
		return notSeen("the guest spec", f.Image.Spec)
	}
	command, found := []string(nil), false
	for _, s := range f.Image.Spec.Value.Services {
		if len(s.Command) > 0 && strings.HasSuffix(s.Command[0], "/tailscaled") {
			command, found = s.Command, true
			if f.Machine == nil {
				continue
			}
			if !f.Machine.Services.Seen {
				return notSeen("the services", f.Machine.Services)
			}
			for _, running := range f.Machine.Services.Value {
				if running.Name == s.Name {
					command = running.Command
				}
			}
		}
	}
	if !found {
		return inapplicable("", "no service is tailscaled")
	}
	if len(command) == 0 {
		return unproven("", "tailscaled does not run")
	}
	tun := ""
	for _, a := range command {
		if v, ok := strings.CutPrefix(a, tunFlag); ok {
			tun = v
		}
	}
	seen := tunFlag + tun
	if !slices.Contains(strings.Split(tun, ","), userspaceMode) {
		return failed("tailscaled's "+seen, "where there is no TUN device, or no right to it, it ends").
			by(Rebuild, "call tailscaled with %stailscale0,%s", tunFlag, userspaceMode)
	}
	if f.Machine == nil {
		return needsRun(seen)
	}
	switch t := f.Machine.Fallback; {
	case t != nil && t.Err != "":
		return failed(seen, "a second tailscaled without rights did not fall back: %s", t.Err).
			by(ReadLog, "run tailscaled as another user, and read what it says")
	case t != nil:
		return proven("%s; a second one without rights said: %s", seen, t.Said)
	case f.Machine.Tailnet.Seen && !f.Machine.Tailnet.Value.Kernel:
		return proven("%s; it runs without a network device now", seen)
	}
	return needsTrial(seen+"; it has a network device now", "only one without a device shows the other way")
}
