package build

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// conditions are what is different where somebody else builds the same. None
// of it may change an artifact, so none of it is in the key of a step.
type conditions struct {
	dir, hostname string
	memory        bool     // the working directory is in memory: another order of files
	env           []string // replaces variables of stepEnv and adds to them
	umask         string
	// key signs in the place of the user's own.
	key *apk.SigningKey
	// faketime is the library that moves the clock, "" where there is none.
	faketime store.Digest
}

// Condition is something that differed between two builds.
type Condition struct {
	Name   string `json:"name"`
	First  string `json:"first"`
	Second string `json:"second"`
}

// clockShift is how far the second build's clock is ahead: more than a year,
// so that every field of a date differs.
const clockShift = "+400d"

// elsewhere are the conditions of a second build on this machine. Library is
// the path of libfaketime, "" to leave the clock alone.
func elsewhere(ctx context.Context, st *store.Store, library string) (conditions, []Condition, error) {
	jobs := strconv.Itoa(runtime.NumCPU() + 1)
	c := conditions{
		dir: "/var/tmp/elsewhere/deeper", hostname: "elsewhere", memory: true, umask: "077",
		env: []string{
			"HOME=/home/somebody", "LANG=sv_SE.UTF-8", "LC_ALL=C.UTF-8", "LOGNAME=somebody", "TZ=XXX-13", "USER=somebody",
			// nproc(1), which the scripts ask for the number of jobs, heeds it.
			"OMP_NUM_THREADS=" + jobs,
		},
	}
	list := []Condition{
		{"working directory", "/work, on disk", c.dir + ", in memory (files in another order)"},
		{"host name", "the engine's", c.hostname},
		{"umask", "022", c.umask},
		{"locale", "C", "C.UTF-8, LANG sv_SE.UTF-8"},
		{"time zone", "UTC", "13 hours east"},
		{"user", "root, /root", "somebody, /home/somebody (by the environment)"},
		{"jobs", strconv.Itoa(runtime.NumCPU()), jobs},
		{"cache, engine, toolchain image", "the user's", "new"},
		{"signing key", "the user's", "new, with a longer name"},
	}
	var err error
	if c.key, err = apk.GenerateKey("somebody-else-elsewhere"); err != nil {
		return c, nil, err
	}
	clock := Condition{"clock", "now", "later by what the first build took; install libfaketime to move it"}
	if library != "" {
		f, err := os.Open(library)
		if err != nil {
			return c, nil, err
		}
		defer f.Close()
		if c.faketime, _, err = st.Put(ctx, f, ""); err != nil {
			return c, nil, err
		}
		clock.Second = "400 days later (not for static programs)"
	}
	return c, append(list, clock), nil
}

// findFaketime is Debian's libfaketime, "" where it is not installed.
func findFaketime() string {
	found, _ := filepath.Glob("/usr/lib/*-linux-gnu/faketime/libfaketime.so.1") // the pattern is well formed
	if len(found) == 0 {
		return ""
	}
	return found[0]
}

// faketimePath is where a step finds the library.
const faketimePath = "/in/libfaketime.so.1"

// apply changes a step to run under the conditions.
func (c conditions) apply(s *engine.Step, path func(store.Digest) string) {
	s.Dir, s.Hostname, s.Memory = c.dir, c.hostname, c.memory
	env := slices.Clone(c.env)
	script := ""
	if c.umask != "" {
		script += "umask " + c.umask + "\n"
	}
	if c.faketime != "" {
		s.Inputs = append(slices.Clone(s.Inputs), engine.Input{Dest: faketimePath, Path: path(c.faketime), Digest: c.faketime})
		env = append(env, "LD_PRELOAD="+faketimePath, "FAKETIME="+clockShift, "FAKETIME_DONT_FAKE_MONOTONIC=1")
		// A library the toolchain's loader refuses is only a warning to it.
		script += fmt.Sprintf("[ $(date +%%s) -gt $(($(LD_PRELOAD= date +%%s) + 86400)) ] || { echo '%s does not move the clock of this toolchain'; exit 1; }\n", faketimePath)
	}
	for _, kv := range s.Env {
		name, _, _ := strings.Cut(kv, "=")
		if !slices.ContainsFunc(env, func(own string) bool { return strings.HasPrefix(own, name+"=") }) {
			env = append(env, kv)
		}
	}
	s.Env, s.Script = env, script+s.Script
}
