package services

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// maxServices bounds a spec.
const maxServices = 64

// Check says whether a spec can be run at all, so that a wrong one is told at
// boot and not when a service is restarted for the first time.
func Check(s spec.Spec) error {
	if s.Schema < 1 || s.Schema > spec.Schema {
		return fmt.Errorf("%s: schema %d: this sovereign-init reads 1 to %d: rebuild the image", spec.Path, s.Schema, spec.Schema)
	}
	if len(s.Services) > maxServices {
		return fmt.Errorf("%s: %d services: want at most %d", spec.Path, len(s.Services), maxServices)
	}
	if !filepath.IsAbs(s.Data.Mount) || filepath.Clean(s.Data.Mount) == "/" {
		return fmt.Errorf("%s: data.mount %q: want an absolute path below /", spec.Path, s.Data.Mount)
	}
	if s.Data.FileSystem != "ext4" {
		return fmt.Errorf("%s: data.filesystem %q: want ext4", spec.Path, s.Data.FileSystem)
	}
	known := map[string]bool{}
	for _, v := range s.Services {
		if err := checkService(v, known); err != nil {
			return fmt.Errorf("%s: service %q: %w", spec.Path, v.Name, err)
		}
		known[v.Name] = true
	}
	return checkOrder(s.Services)
}

func checkService(v spec.Service, known map[string]bool) error {
	if !plainName(v.Name) || v.Name == "init" {
		return fmt.Errorf("name: want 1 to 64 of a-z, A-Z, 0-9, dash, underscore and dot, not init")
	}
	if known[v.Name] {
		return fmt.Errorf("there are two of that name")
	}
	if len(v.Command) == 0 {
		return fmt.Errorf("command is empty")
	}
	commands := append([][]string{v.Command, v.Health.Command, v.Reload}, v.Setup...)
	if b := v.Backup; b != nil {
		commands = append(commands, b.Before, b.Marks, b.Check)
	}
	for _, argv := range commands {
		if len(argv) > 0 && !filepath.IsAbs(argv[0]) {
			return fmt.Errorf("command %q: want an absolute path", argv[0])
		}
	}
	if v.User == "" {
		return fmt.Errorf("user is empty")
	}
	if err := checkPrivileges(v); err != nil {
		return err
	}
	if _, err := stopSignal(v.Stop.Signal); err != nil {
		return err
	}
	for _, d := range v.Directories {
		if _, err := dirMode(d.Mode); err != nil {
			return fmt.Errorf("directory %s: %w", d.Path, err)
		}
		if !filepath.IsAbs(d.Path) {
			return fmt.Errorf("directory %q: want an absolute path", d.Path)
		}
	}
	if w := v.Health.Watch; w != "" && (!filepath.IsAbs(w) || filepath.Clean(w) != w || w == "/") {
		return fmt.Errorf("health.watch %q: want the absolute path of a file", w)
	}
	for _, x := range v.Secrets {
		if !plainName(x.Name) || !x.Given && (x.Bytes < 16 || x.Bytes > 64) {
			return fmt.Errorf("secret %q: want a plain name and 16 to 64 bytes", x.Name)
		}
	}
	if err := checkCertificates(v); err != nil {
		return err
	}
	for _, r := range []struct {
		name    string
		v, most int
	}{
		{"stop.seconds", v.Stop.Seconds, 600},
		{"health.interval_seconds", v.Health.IntervalSeconds, 3600},
		{"health.timeout_seconds", v.Health.TimeoutSeconds, 600},
		{"health.failures", v.Health.Failures, 1000},
	} {
		if strings.HasPrefix(r.name, "health.") && len(v.Health.Command) == 0 {
			continue
		}
		if r.v < 1 || r.v > r.most {
			return fmt.Errorf("%s: %d: want 1 to %d", r.name, r.v, r.most)
		}
	}
	if n := v.Limits.PIDs; n < 0 || n > spec.MaxPIDs {
		return fmt.Errorf("limits.pids: %d: want 1 to %d, or 0 for %d", n, spec.MaxPIDs, spec.DefaultPIDs)
	}
	if o := v.Limits.OOMScoreAdj; o < -1000 || o > 1000 {
		return fmt.Errorf("limits.oom_score_adj: %d: want -1000 to 1000", o)
	}
	return nil
}

// checkPrivileges refuses what the kernel has no name or number for.
func checkPrivileges(v spec.Service) error {
	for _, name := range v.Capabilities {
		if _, ok := spec.Capability(name); !ok {
			return fmt.Errorf("capability %q: want a name of <linux/capability.h> without CAP_", name)
		}
	}
	for _, path := range v.Devices {
		if !spec.IsDevice(path) {
			return fmt.Errorf("device %q: want a device file below /dev", path)
		}
	}
	return nil
}

// checkCertificates refuses files of two makers.
func checkCertificates(v spec.Service) error {
	taken := map[string]bool{}
	for _, x := range v.Secrets {
		taken[x.Name] = true
	}
	for _, c := range v.Certificates {
		if !plainName(c.Name) {
			return fmt.Errorf("certificate %q: want a plain name", c.Name)
		}
		for _, name := range []string{c.Name + ".key", c.Name + ".crt"} {
			if taken[name] {
				return fmt.Errorf("certificate %q: there are two secrets %q", c.Name, name)
			}
			taken[name] = true
		}
	}
	return nil
}

// checkOrder refuses services that come after unknown ones or, in a circle,
// after themselves.
func checkOrder(services []spec.Service) error {
	after := map[string][]string{}
	for _, v := range services {
		after[v.Name] = v.After
	}
	const visiting, done = 1, 2
	seen := map[string]int{}
	var visit func(name, from string) error
	visit = func(name, from string) error {
		list, ok := after[name]
		switch {
		case !ok:
			return fmt.Errorf("%s: service %q comes after %q, which is not there", spec.Path, from, name)
		case seen[name] == visiting:
			return fmt.Errorf("%s: service %q comes after itself: break the circle", spec.Path, name)
		case seen[name] == done:
			return nil
		}
		seen[name] = visiting
		for _, a := range list {
			if err := visit(a, name); err != nil {
				return err
			}
		}
		seen[name] = done
		return nil
	}
	for _, v := range services {
		if err := visit(v.Name, v.Name); err != nil {
			return err
		}
	}
	return nil
}

// plainName accepts what is safe as a file name.
func plainName(s string) bool {
	if s == "" || len(s) > 64 || s[0] == '.' {
		return false
	}
	for _, c := range s {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}

func stopSignal(name string) (syscall.Signal, error) {
	switch name {
	case "INT":
		return syscall.SIGINT, nil
	case "TERM":
		return syscall.SIGTERM, nil
	case "QUIT":
		return syscall.SIGQUIT, nil
	}
	return 0, fmt.Errorf("stop.signal %q: want INT, TERM or QUIT", name)
}

// dirMode reads an octal mode; set-id and sticky bits are allowed.
func dirMode(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil || n > 0o7777 {
		return 0, fmt.Errorf("mode %q: want an octal number like 0700", s)
	}
	return uint32(n), nil
}
