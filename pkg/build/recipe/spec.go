package recipe

import (
	"time"

	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// The data disk as every recipe has it.
const (
	DataSerial     = "data"
	DataFileSystem = "ext4"
	DataMount      = "/data"
)

// fill sets what the file left out to the documented defaults.
func (r *Recipe) fill() {
	for i := range r.Users {
		u := &r.Users[i]
		orString(&u.Home, "/")
		orString(&u.Shell, "/sbin/nologin")
	}
	for i := range r.Files {
		f := &r.Files[i]
		orString(&f.User, "root")
		if f.Directory {
			orString(&f.Mode, "0755")
		} else if f.Link == "" {
			orString(&f.Mode, "0644")
		}
	}
	for i := range r.Services {
		s := &r.Services[i]
		orNumber(&s.Limits.PIDs, spec.DefaultPIDs)
		for j := range s.Directories {
			orString(&s.Directories[j].Mode, "0755")
		}
		for j := range s.Secrets {
			if !s.Secrets[j].Given {
				orNumber(&s.Secrets[j].Bytes, 24)
			}
		}
		orString(&s.Stop.Signal, "TERM")
		orNumber(&s.Stop.Timeout, Duration(30*time.Second))
		orNumber(&s.Health.Interval, Duration(10*time.Second))
		orNumber(&s.Health.Timeout, Duration(5*time.Second))
		orNumber(&s.Health.Failures, 3)
	}
}

func orString(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

func orNumber[N int | Duration](n *N, value N) {
	if *n == 0 {
		*n = value
	}
}

// Resolve finds a file that the recipe names: it is relative to the recipe's
// directory, or on this machine as it is when absolute.
func (r *Recipe) Resolve(name string) Ref { return Ref{r.FS, r.Dir}.Join(name) }

// Fragments returns the names of the kernel fragments for an architecture, in
// the order of merging.
func (r *Recipe) Fragments(arch string) []string {
	return append(append([]string(nil), r.Kernel.Fragments...), r.Kernel.Arch[arch]...)
}

// Spec returns the guest spec of the recipe.
func (r *Recipe) Spec() spec.Spec {
	out := spec.Spec{
		Schema: spec.Schema,
		Name:   r.Name,
		Data:   spec.Data{Serial: DataSerial, FileSystem: DataFileSystem, Mount: DataMount},
	}
	for _, s := range r.Services {
		out.Services = append(out.Services, s.spec())
	}
	return out
}

func (s Service) spec() spec.Service {
	out := spec.Service{
		Name:         s.Name,
		User:         s.User,
		Capabilities: s.Capabilities,
		Devices:      s.Devices,
		Environment:  s.Environment,
		After:        s.After,
		Setup:        s.Setup,
		Command:      s.Command,
		Reload:       s.Reload,
		Stop:         spec.Stop{Signal: s.Stop.Signal, Seconds: s.Stop.Timeout.seconds()},
		Health: spec.Health{
			Command:         s.Health.Command,
			Starting:        s.Health.Starting,
			Watch:           s.Health.Watch,
			IntervalSeconds: s.Health.Interval.seconds(),
			TimeoutSeconds:  s.Health.Timeout.seconds(),
			Failures:        s.Health.Failures,
		},
		Limits: spec.Limits{
			OpenFiles:   s.Limits.OpenFiles,
			MemoryMiB:   uint64(s.Limits.Memory / MiB),
			PIDs:        s.Limits.PIDs,
			OOMScoreAdj: s.Limits.OOMScoreAdj,
		},
		Optional: s.Optional,
	}
	if b := s.Backup; len(b.Before)+len(b.Marks)+len(b.Identity)+len(b.Check) > 0 || b.Log != (BackupLog{}) {
		out.Backup = &spec.Backup{Before: b.Before, Marks: b.Marks, Identity: b.Identity, Check: b.Check}
		if b.Log != (BackupLog{}) {
			out.Backup.Log = &spec.Log{Kind: b.Log.Kind, Socket: b.Log.Socket}
		}
	}
	for _, d := range s.Directories {
		out.Directories = append(out.Directories, spec.Directory(d))
	}
	for _, secret := range s.Secrets {
		out.Secrets = append(out.Secrets, spec.Secret(secret))
	}
	for _, cert := range s.Certificates {
		out.Certificates = append(out.Certificates, spec.Certificate(cert))
	}
	return out
}

// BundlePorts returns the TCP ports of all services, in the recipe's order,
// as the manifest lists them. (Ports, the field, is the directory of ports of
// the other kind.)
func (r *Recipe) BundlePorts() []bundle.Port {
	var ports []bundle.Port
	for _, s := range r.Services {
		for _, p := range s.Ports {
			ports = append(ports, bundle.Port{Name: p.Name, Service: s.Name, Port: p.Port, URL: p.URL})
		}
	}
	return ports
}
