package cli

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// Load is what a guest, or one of its services, does and has.
type Load struct {
	// CPU is how many processors were in use, on average since the last look;
	// absent at the first.
	CPU *float64 `json:"cpu,omitempty"`
	// Memory is what is in use, in bytes: of a guest what it could not hand out,
	// of a service its processes and their files.
	Memory int64 `json:"memory"`
	// MemoryMax is what a guest has.
	MemoryMax int64 `json:"memory_max,omitempty"`
	// Commits are PostgreSQL's commits in a second, on average since the last
	// look.
	Commits *float64 `json:"commits_per_second,omitempty"`
}

// rounded leaves out what nobody sees change.
func (l *Load) rounded() *Load {
	if l == nil {
		return nil
	}
	r := *l
	r.Memory = r.Memory + 1<<19&^(1<<20-1)
	r.CPU, r.Commits = rounded(r.CPU, 100), rounded(r.Commits, 1)
	return &r
}

func rounded(v *float64, parts float64) *float64 {
	if v == nil {
		return nil
	}
	r := math.Round(*v*parts) / parts
	return &r
}

// String is for a table.
func (l *Load) String() string {
	if l == nil {
		return ""
	}
	var words []string
	if l.CPU != nil {
		words = append(words, fmt.Sprintf("%.0f %% CPU", *l.CPU*100))
	}
	memory := mebibytes(l.Memory)
	if l.MemoryMax > 0 {
		memory += " of " + mebibytes(l.MemoryMax)
	}
	words = append(words, memory)
	if l.Commits != nil {
		words = append(words, fmt.Sprintf("%.0f commits/s", *l.Commits))
	}
	return strings.Join(words, ", ")
}

// maxMetrics bounds the lines of metrics that are looked at.
const maxMetrics = 10_000

// metrics are values in Prometheus' text format: "name" or
// `name{service="postgresql"}`.
type metrics map[string]float64

// parseMetrics passes over what it does not understand: a newer guest may have
// more.
func parseMetrics(text []byte) metrics {
	m := metrics{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 0; n < maxMetrics && lines.Scan(); n++ {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 1 || line[0] == '#' {
			continue
		}
		if v, err := strconv.ParseFloat(line[at+1:], 64); err == nil && !math.IsNaN(v) && !math.IsInf(v, 0) {
			m[line[:at]] = v
		}
	}
	return m
}

func (m metrics) service(name, service string) (float64, bool) {
	v, ok := m[name+`{service="`+service+`"}`]
	return v, ok
}

// meters are what the loads of one machine are measured by.
type meters struct {
	pid     int // of this life of it
	last    metrics
	commits *commits
}

// measure fills in the loads of a machine that runs. What the guest does not
// tell is left out. What lasts ends with ctx, the rest with limited.
func (r *meters) measure(ctx, limited context.Context, m *runtime.Machine, s *MachineStatus) {
	text, err := m.Metrics(limited)
	if err != nil {
		r.last = nil // of another boot, perhaps
		return
	}
	now := parseMetrics(text)
	passed := now["sovereign_uptime_seconds"] - r.last["sovereign_uptime_seconds"]
	if r.last == nil || passed <= 0 {
		r.last = nil
	}
	total, has := 0.0, false
	for i := range s.Services {
		v := &s.Services[i]
		memory, ok := now.service("sovereign_service_memory_bytes", v.Name)
		if !ok {
			continue
		}
		v.Load = &Load{Memory: int64(memory)}
		after, ok := now.service("sovereign_service_cpu_seconds_total", v.Name)
		before, known := r.last.service("sovereign_service_cpu_seconds_total", v.Name)
		if ok && known && after >= before { // it may have been started anew
			cpu := (after - before) / passed
			v.Load.CPU, total, has = &cpu, total+cpu, true
		}
		if v.Name == postgresService && v.Healthy {
			v.Load.Commits = r.perSecond(ctx, m)
		}
	}
	if size, ok := now["sovereign_memory_total_bytes"]; ok {
		s.Load = &Load{Memory: int64(size - now["sovereign_memory_available_bytes"]), MemoryMax: int64(size)}
		if has {
			s.Load.CPU = &total
		}
	}
	r.last = now
}

// postgresService is the service whose commits are counted.
const postgresService = "postgresql"

func (r *meters) perSecond(ctx context.Context, m *runtime.Machine) *float64 {
	if r.commits == nil {
		r.commits = countCommits(ctx, m)
	}
	rate, ok := r.commits.perSecond()
	if !ok {
		return nil
	}
	return &rate
}

// commits asks PostgreSQL, in a session of its own that lasts as long as its
// context.
type commits struct {
	ask   *io.PipeWriter
	lines chan string
	asked bool

	count, at float64 // of the last answer
}

// commitsQuery is answered by one line, "COUNT|SECONDS", by the guest's clock.
const commitsQuery = "SELECT sum(xact_commit), extract(epoch FROM clock_timestamp()) FROM pg_stat_database;\n"

func countCommits(ctx context.Context, m *runtime.Machine) *commits {
	in, ask := io.Pipe()
	out, answers := io.Pipe()
	c := &commits{ask: ask, lines: make(chan string, 1)}
	go func() {
		r := agent.ExecRequest{Argv: []string{"psql", "-XAtq"}, User: postgresUser}
		// Where it cannot be run, nothing is counted: it is no business of who
		// looks at the status.
		_, err := m.Exec(ctx, r, agent.ExecIO{Stdin: in, Stdout: answers, Stderr: io.Discard})
		answers.CloseWithError(err)
		in.CloseWithError(io.ErrClosedPipe)
	}()
	go func() {
		defer close(c.lines)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			select {
			case c.lines <- lines.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	return c
}

// perSecond is the rate between the last two answers. An answer that is late is
// taken at the next look.
func (c *commits) perSecond() (rate float64, ok bool) {
	if c.asked {
		select {
		case line, more := <-c.lines:
			if !more {
				return 0, false
			}
			c.asked = false
			rate, ok = c.take(line)
		case <-time.After(100 * time.Millisecond):
		}
	}
	if !c.asked {
		if _, err := io.WriteString(c.ask, commitsQuery); err != nil {
			return 0, false
		}
		c.asked = true
	}
	return rate, ok
}

func (c *commits) take(line string) (rate float64, ok bool) {
	first, second, _ := strings.Cut(line, "|")
	count, err := strconv.ParseFloat(first, 64)
	at, atErr := strconv.ParseFloat(second, 64)
	if err != nil || atErr != nil {
		return 0, false
	}
	if c.at > 0 && at > c.at && count >= c.count {
		// One of them is the question itself.
		rate, ok = max(0, count-c.count-1)/(at-c.at), true
	}
	c.count, c.at = count, at
	return rate, ok
}
