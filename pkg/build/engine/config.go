package engine

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// minFree is the disk space, in bytes, that the engine's cache leaves to
// others: garbage collection starts when less is free. (BuildKit's default is
// a fifth of the disk.)
const minFree = 2 << 30

// daemonConfig is what buildkitd.toml says.
type daemonConfig struct {
	root       string // state
	socket     string
	runc       string // path of the OCI runtime
	rootless   bool
	cacheLimit int64 // bytes
}

// toml renders the file. Strings are quoted as Go does it, which is a subset
// of TOML's basic strings for paths without control characters.
func (c daemonConfig) toml() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	q := strconv.Quote

	line("# Written by sovereign-build at each start of the engine; changes are lost.")
	line("root = %s", q(c.root))
	line("[grpc]")
	line("address = [%s]", q("unix://"+c.socket))
	line("[otel]")
	line("socketPath = %s", q(filepath.Join(filepath.Dir(c.socket), "otel.sock")))
	line("[cdi]")
	line("disabled = true")
	line("[history]")
	line("maxEntries = 50")
	// Only plain LLB is solved: no frontend may fetch anything.
	line(`[frontend."dockerfile.v0"]`)
	line("enabled = false")
	line(`[frontend."gateway.v0"]`)
	line("enabled = false")
	line("[worker.containerd]")
	line("enabled = false")
	line("[worker.oci]")
	line("enabled = true")
	line("binary = %s", q(c.runc))
	line("rootless = %v", c.rootless)
	// Every step asks for no network at all; this setting only keeps
	// buildkitd from looking for CNI plugins.
	line(`networkMode = "host"`)
	line("gc = true")
	line("[[worker.oci.gcpolicy]]")
	line("all = true")
	line("maxUsedSpace = %d", c.cacheLimit)
	line("minFreeSpace = %d", int64(minFree))
	return b.String()
}
