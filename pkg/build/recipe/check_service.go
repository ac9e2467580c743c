package recipe

import (
	"net"
	"regexp"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// Signals a service may want as its request to stop.
var stopSignals = [...]string{"INT", "QUIT", "TERM"}

func checkServices(c *check, services []Service, users []string) {
	names, ports, portNames, paths := map[string]string{}, map[int]string{}, map[string]string{}, map[string]string{}
	devices := map[string]string{}
	if len(services) == 0 {
		c.failf("services", "services is empty, a machine needs at least one")
	}
	for i, s := range services {
		c.name(index("services", i)+".name", "service name", s.Name)
		unique(c, names, index("services", i)+".name", "service name", s.Name)
	}
	for i, s := range services {
		where := index("services", i)
		c.oneOf(where+".user", "user", s.User, users...)
		checkCapabilities(c, where, s.Capabilities)
		for j, d := range s.Devices {
			c.device(index(where+".devices", j), d)
			unique(c, devices, index(where+".devices", j), "device", d)
		}
		for _, key := range slices.Sorted(slices.Values(keys(s.Environment))) {
			if !environPattern.MatchString(key) {
				c.failf(where+".environment."+key+"#key", "%q is not a name for an environment variable", key)
			}
		}
		for j, after := range s.After {
			c.oneOf(index(where+".after", j), "service", after, keys(names)...)
		}
		for j, d := range s.Directories {
			c.directory(index(where+".directories", j), d)
			unique(c, paths, index(where+".directories", j)+".path", "directory", d.Path)
		}
		secrets := checkSecrets(c, where, s.Secrets)
		certificates := checkCertificates(c, where, s.Certificates)
		for j, command := range s.Setup {
			c.command(index(where+".setup", j), command)
		}
		c.command(where+".command", s.Command)
		if c.given(where + ".reload") {
			c.command(where+".reload", s.Reload)
		}
		for _, v := range []struct {
			name    string
			command []string
		}{{"before", s.Backup.Before}, {"marks", s.Backup.Marks}, {"check", s.Backup.Check}} {
			if at := where + ".backup." + v.name; c.given(at) {
				c.command(at, v.command)
			}
		}
		for j, path := range s.Backup.Identity {
			at := index(where+".backup.identity", j)
			c.absolute(at, path)
			if !strings.HasPrefix(path, "/data/") {
				c.failf(at, "%q is not below /data, where all is that a clone has from the other machine", path)
			}
		}
		if at := where + ".backup.log"; c.given(at) {
			c.oneOf(at+".kind", "kind of log", s.Backup.Log.Kind, spec.LogPostgreSQL)
			c.absolute(at+".socket", s.Backup.Log.Socket)
			if !strings.HasPrefix(s.Backup.Log.Socket, "/run/") {
				c.failf(at+".socket", "%q is not below /run, where sockets are", s.Backup.Log.Socket)
			}
		}
		if c.given(where + ".stop.signal") {
			c.oneOf(where+".stop.signal", "signal", s.Stop.Signal, stopSignals[:]...)
		}
		c.seconds(where+".stop.timeout", s.Stop.Timeout, 600)
		checkHealth(c, where+".health", s.Health)
		if c.given(where + ".limits.memory") {
			c.mebibytes(where+".limits.memory", s.Limits.Memory, MiB)
		}
		if c.given(where + ".limits.pids") {
			c.between(where+".limits.pids", s.Limits.PIDs, 1, spec.MaxPIDs)
		}
		c.between(where+".limits.oom_score_adj", s.Limits.OOMScoreAdj, -1000, 1000)
		for j, p := range s.Ports {
			at := index(where+".ports", j)
			c.name(at+".name", "port name", p.Name)
			c.between(at+".port", p.Port, 1, 65535)
			unique(c, portNames, at+".name", "port name", p.Name)
			unique(c, ports, at+".port", "port", p.Port)
			checkPortURL(c, at+".url", p.URL, secrets, certificates)
		}
	}
	checkOrder(c, services)
}

func checkCapabilities(c *check, where string, list []string) {
	seen := map[string]string{}
	for i, name := range list {
		at := index(where+".capabilities", i)
		if bare, ok := strings.CutPrefix(name, "CAP_"); ok {
			c.failf(at, "capability %q is written without CAP_: %s", name, bare)
		}
		c.oneOf(at, "capability", name, spec.Capabilities()...)
		unique(c, seen, at, "capability", name)
	}
}

// device accepts a device file that the kernel makes.
func (c *check) device(where, path string) {
	c.absolute(where, path)
	if !spec.IsDevice(path) {
		c.failf(where, "device %q is not a device file below /dev, like /dev/net/tun", path)
	}
}

func (c *check) directory(where string, d Directory) {
	c.writable(where+".path", "directory", d.Path)
	if c.given(where + ".mode") {
		c.mode(where+".mode", d.Mode)
	}
}

// writable accepts what a service can make at run time.
func (c *check) writable(where, what, path string) {
	c.absolute(where, path)
	if !strings.HasPrefix(path, "/data/") && !strings.HasPrefix(path, "/run/") && !strings.HasPrefix(path, "/tmp/") {
		c.failf(where, "%s %q is neither under /data (kept) nor under /run or /tmp (gone at shutdown), and the rest of the image is read-only", what, path)
	}
}

func checkSecrets(c *check, where string, list []Secret) []string {
	seen := map[string]string{}
	for i, s := range list {
		at := index(where+".secrets", i)
		c.name(at+".name", "secret name", s.Name)
		unique(c, seen, at+".name", "secret name", s.Name)
		if c.given(at + ".bytes") {
			c.between(at+".bytes", s.Bytes, 16, 64)
			if s.Given {
				c.failf(at+".bytes", "secret %q is given by the owner, it has no bytes of its own", s.Name)
			}
		}
	}
	return keys(seen)
}

// checkCertificates returns the hosts of each.
func checkCertificates(c *check, where string, list []Certificate) map[string][]string {
	seen, hosts := map[string]string{}, map[string][]string{}
	for i, s := range list {
		at := index(where+".certificates", i)
		c.name(at+".name", "certificate name", s.Name)
		unique(c, seen, at+".name", "certificate name", s.Name)
		hosts[s.Name] = s.Hosts
		for j, h := range s.Hosts {
			if !hostPattern.MatchString(h) && net.ParseIP(h) == nil {
				c.failf(index(at+".hosts", j), "%q is neither a DNS name nor an IP address", h)
			}
		}
	}
	return hosts
}

// hostPattern is a DNS name, with a wildcard as its first label or without.
var hostPattern = regexp.MustCompile(`^(\*\.)?([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?\.)*[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)

func checkHealth(c *check, where string, h Health) {
	c.command(where+".command", h.Command)
	for i, code := range h.Starting {
		c.between(index(where+".starting", i), code, 1, 255)
	}
	if c.given(where + ".watch") {
		c.writable(where+".watch", "file", h.Watch)
	}
	c.seconds(where+".interval", h.Interval, 3600)
	c.seconds(where+".timeout", h.Timeout, 600)
	if c.given(where + ".failures") {
		c.between(where+".failures", h.Failures, 1, 1000)
	}
}

var placeholder = regexp.MustCompile(`\$\{[^}]*\}?`)

// clientAddress is where the host's end of every port is, and so what
// ${address} begins with.
const clientAddress = "127.0.0.1"

func checkPortURL(c *check, where, url string, secrets []string, certificates map[string][]string) {
	if strings.ContainsFunc(url, func(r rune) bool { return r < ' ' || r > '~' }) {
		c.failf(where, "url %q has a character that is not printable ASCII: write it percent-encoded", url)
	}
	for _, p := range placeholder.FindAllString(url, -1) {
		kind, name, named := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(p, "${"), "}"), ":")
		switch {
		case p == "${address}":
		case named && kind == "secret" && strings.HasSuffix(p, "}"):
			c.oneOf(where, "secret", name, secrets...)
		case named && kind == "certificate" && strings.HasSuffix(p, "}"):
			hosts, known := certificates[name]
			if !known {
				c.oneOf(where, "certificate", name, keys(certificates)...)
			} else if !slices.Contains(hosts, clientAddress) {
				c.failf(where, "certificate %q is not for %s, where ${address} leads: add that to its hosts", name, clientAddress)
			}
		default:
			c.failf(where, "unknown placeholder %s, known are ${address}, ${secret:NAME} and ${certificate:NAME}", p)
		}
	}
}

// checkOrder refuses services that wait for each other.
func checkOrder(c *check, services []Service) {
	byName := map[string]int{}
	for i, s := range services {
		byName[s.Name] = i
	}
	state := make([]int, len(services)) // 0 new, 1 on the chain, 2 done
	var chain []string
	var visit func(i int)
	visit = func(i int) {
		state[i] = 1
		chain = append(chain, services[i].Name)
		for j, after := range services[i].After {
			next, ok := byName[after]
			if !ok {
				continue // reported before
			}
			if state[next] == 1 {
				loop := append(slices.Clone(chain[slices.Index(chain, after):]), after)
				c.failf(index(index("services", i)+".after", j), "services wait for each other: %s", strings.Join(loop, " → "))
			} else if state[next] == 0 {
				visit(next)
			}
		}
		chain = chain[:len(chain)-1]
		state[i] = 2
	}
	for i := range services {
		if state[i] == 0 {
			visit(i)
		}
	}
}
