// Package metrics writes what a guest measures in Prometheus' text format. In
// come the kernel's files and the state of the services; out goes text. It
// keeps nothing: rates are the reader's business.
package metrics

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// Source says where to read.
type Source struct {
	Proc    string // "/proc"
	Cgroups string // the directory with a group for each running service
	Status  agent.Status
}

// maxLine bounds the lines of the kernel's files, in bytes.
const maxLine = 64 << 10

// Write writes all metrics. What the kernel does not have is left out.
func Write(w io.Writer, s Source) error {
	p := &printer{w: w}
	p.family("sovereign_up", "gauge", "1 while the guest is ready")
	p.value("sovereign_up", "", flag(s.Status.State == agent.StateReady))
	p.family("sovereign_uptime_seconds", "counter", "time since the kernel's start")
	p.value("sovereign_uptime_seconds", "", float64(s.Status.UptimeMS)/1000)
	p.family("sovereign_boot_seconds", "gauge", "time from the kernel's start until the guest was ready; 0 before that")
	p.value("sovereign_boot_seconds", "", float64(s.Status.BootMS)/1000)
	p.family("sovereign_clock_set", "gauge", "1 where the time comes from that source")
	for _, c := range []agent.Clock{agent.ClockRTC, agent.ClockNTP, agent.ClockUnset} {
		p.value("sovereign_clock_set", label("source", string(c)), flag(s.Status.Clock == c))
	}
	if d := s.Status.Data; d != nil {
		p.family("sovereign_data_size_bytes", "gauge", "size of the data file system")
		p.value("sovereign_data_size_bytes", "", float64(d.Size))
		p.family("sovereign_data_free_bytes", "gauge", "room left on it")
		p.value("sovereign_data_free_bytes", "", float64(d.Free))
	}
	p.services(s)
	return errors.Join(p.memory(s.Proc), p.load(s.Proc), p.pressure(s.Proc), p.err)
}

func (p *printer) services(s Source) {
	for _, m := range []struct {
		name, kind, help string
		value            func(agent.Service) (float64, bool)
	}{
		{"sovereign_service_up", "gauge", "1 while the service is healthy", func(v agent.Service) (float64, bool) { return flag(v.Healthy), true }},
		{"sovereign_service_restarts_total", "counter", "starts after the first one, since boot", func(v agent.Service) (float64, bool) { return float64(v.Restarts), true }},
		{"sovereign_service_memory_bytes", "gauge", "memory of the service's processes and their files", func(v agent.Service) (float64, bool) {
			return number(filepath.Join(s.Cgroups, v.Name, "memory.current"))
		}},
		{"sovereign_service_cpu_seconds_total", "counter", "processor time of the service, since its last start", func(v agent.Service) (float64, bool) {
			us, ok := field(filepath.Join(s.Cgroups, v.Name, "cpu.stat"), "usage_usec")
			return us / 1e6, ok
		}},
	} {
		p.family(m.name, m.kind, m.help)
		for _, v := range s.Status.Services {
			if n, ok := m.value(v); ok {
				p.value(m.name, label("service", v.Name), n)
			}
		}
	}
}

// memory reads /proc/meminfo.
func (p *printer) memory(proc string) error {
	lines, err := readLines(filepath.Join(proc, "meminfo"))
	for _, l := range lines {
		f := strings.Fields(l)
		if len(f) < 2 {
			continue
		}
		name, ok := map[string]string{"MemTotal:": "total", "MemAvailable:": "available", "Dirty:": "dirty", "SwapFree:": "swap_free"}[f[0]]
		kib, err := strconv.ParseFloat(f[1], 64)
		if !ok || err != nil {
			continue
		}
		name = "sovereign_memory_" + name + "_bytes"
		p.family(name, "gauge", strings.TrimSuffix(f[0], ":")+" of /proc/meminfo")
		p.value(name, "", kib*1024)
	}
	return err
}

// load reads /proc/loadavg.
func (p *printer) load(proc string) error {
	lines, err := readLines(filepath.Join(proc, "loadavg"))
	if len(lines) == 0 {
		return err
	}
	for i, v := range strings.Fields(lines[0]) {
		n, err := strconv.ParseFloat(v, 64)
		if i > 2 || err != nil {
			break
		}
		name := "sovereign_load" + []string{"1", "5", "15"}[i]
		p.family(name, "gauge", "load average over so many minutes")
		p.value(name, "", n)
	}
	return err
}

// pressure reads /proc/pressure: how long somebody, or everybody, waited for a
// resource.
func (p *printer) pressure(proc string) error {
	const name = "sovereign_pressure_seconds_total"
	var errs error
	head := false
	for _, resource := range []string{"cpu", "io", "memory"} {
		lines, err := readLines(filepath.Join(proc, "pressure", resource))
		errs = errors.Join(errs, err)
		for _, l := range lines {
			who, rest, _ := strings.Cut(l, " ")
			_, total, ok := strings.Cut(rest, "total=")
			us, err := strconv.ParseFloat(total, 64)
			if !ok || err != nil || who != "some" && who != "full" {
				continue
			}
			if !head {
				p.family(name, "counter", "time that some or all tasks waited for the resource")
				head = true
			}
			p.value(name, label("resource", resource)+","+label("tasks", who), us/1e6)
		}
	}
	return errs
}

// printer keeps the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) family(name, kind, help string) {
	p.printf("# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (p *printer) value(name, labels string, v float64) {
	if labels != "" {
		labels = "{" + labels + "}"
	}
	p.printf("%s%s %s\n", name, labels, strconv.FormatFloat(v, 'g', -1, 64))
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// label is NAME="VALUE", escaped as the format wants it.
func label(name, value string) string {
	return name + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(value) + `"`
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// readLines reads a small file; one that is not there has none.
func readLines(path string) ([]string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []string
	sc := bufio.NewScanner(io.LimitReader(f, maxLine))
	for sc.Scan() {
		lines = append(lines, sc.Text())
	}
	if errors.Is(sc.Err(), errors.ErrUnsupported) { // EOPNOTSUPP: pressure that is switched off
		return nil, nil
	}
	return lines, sc.Err()
}

// number reads a file that is one number.
func number(path string) (float64, bool) {
	lines, err := readLines(path)
	if err != nil || len(lines) != 1 {
		return 0, false // no group: the service does not run
	}
	n, err := strconv.ParseFloat(lines[0], 64)
	return n, err == nil
}

// field reads the number behind a word at the start of a line.
func field(path, word string) (float64, bool) {
	lines, err := readLines(path)
	if err != nil {
		return 0, false // as in number
	}
	for _, l := range lines {
		if v, ok := strings.CutPrefix(l, word+" "); ok {
			n, err := strconv.ParseFloat(v, 64)
			return n, err == nil
		}
	}
	return 0, false
}
