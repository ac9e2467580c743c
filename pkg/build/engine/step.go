package engine

import (
	"cmp"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Limits of a step. The script travels as one argument of execve, which Linux
// caps at 128 KiB.
const (
	maxScript = 96 << 10
	maxInputs = 512
)

// workDir is where scripts start unless the step says otherwise: empty,
// writable, and gone after the step.
const workDir = "/work"

// Step is one compile step.
type Step struct {
	// Name is shown and names the log file: "zlib 1.3.1 (arm64)". It is no
	// part of what the step computes.
	Name string
	// Base is the root file system.
	Base Image
	// Script is run by /bin/sh -eu in Dir, at most 96 KiB.
	Script string
	// Dir is the directory the script starts in, empty and writable; "" is
	// /work.
	Dir string
	// Memory keeps Dir in memory instead of on the engine's disk. Programs
	// then see directories in another order.
	Memory bool
	// Hostname is the step's host name; "" is the engine's choice.
	Hostname string
	// Env holds KEY=VALUE. The engine adds PATH and HOME where they are
	// missing, nothing else.
	Env []string
	// Inputs are at most 512 files, read-only in the step.
	Inputs []Input
	// Output is the absolute path of the directory that is exported. It is
	// there and empty when the script starts.
	Output string
	// Log, if not nil, gets what the script prints, as it comes. No part of
	// what the step computes either.
	Log io.Writer
	// Timeout ends the step as failed after this long; 0 is the engine's
	// default (see [WithStepTimeout]).
	Timeout time.Duration
}

// Input is one file a step reads.
type Input struct {
	Dest       string       // absolute path in the step
	Path       string       // file on this machine
	Digest     store.Digest // of its content; checked by the engine
	Executable bool         // mode 0555 instead of 0444
}

// Image is an OCI image in an OCI layout directory on this machine.
type Image struct {
	Layout string       // directory
	Digest store.Digest // of the image manifest
}

// check refuses what BuildKit would refuse late or, worse, accept.
func (s *Step) check() error {
	bad := func(format string, args ...any) error {
		return fault.Errorf(fault.Usage, "step %q: "+format, append([]any{s.Name}, args...)...)
	}
	switch {
	case s.Name == "":
		return bad("no name")
	case s.Base.Digest.Hex() == "":
		return bad("base image digest %q: want sha256: and 64 hex digits", s.Base.Digest)
	case s.Script == "":
		return bad("no script")
	case len(s.Script) > maxScript:
		return bad("script of %d bytes, at most %d: pass long texts as inputs", len(s.Script), maxScript)
	case len(s.Inputs) > maxInputs:
		return bad("%d inputs, at most %d: pass many files as one tar", len(s.Inputs), maxInputs)
	case !cleanAbs(s.Output):
		return bad("output %q: want a clean absolute path", s.Output)
	}
	if !cleanAbs(s.dir()) {
		return bad("directory %q: want a clean absolute path", s.Dir)
	}
	taken := []string{s.dir(), s.Output}
	for _, in := range s.Inputs {
		switch {
		case !cleanAbs(in.Dest):
			return bad("input %q: want a clean absolute path", in.Dest)
		case slices.Contains(taken, in.Dest):
			return bad("input %s: another mount is already there", in.Dest)
		case in.Digest.Hex() == "":
			return bad("input %s: digest %q: want sha256: and 64 hex digits", in.Dest, in.Digest)
		}
		taken = append(taken, in.Dest)
	}
	for _, kv := range s.Env {
		if k, _, ok := strings.Cut(kv, "="); !ok || k == "" || strings.ContainsRune(kv, 0) {
			return bad("environment %q: want KEY=VALUE", kv)
		}
	}
	return nil
}

func (s *Step) dir() string { return cmp.Or(s.Dir, workDir) }

func cleanAbs(p string) bool {
	return len(p) > 1 && path.IsAbs(p) && path.Clean(p) == p && !strings.ContainsRune(p, 0)
}
