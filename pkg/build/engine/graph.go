package engine

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// storeID names the client's content store within a session. Cache keys do not
// contain it, but constant it is easier to reason about.
const storeID = "sovereign"

// Names of the vertices that are not steps, as the progress display shows them.
const (
	baseVertex  = "toolchain image "
	inputVertex = "input "
)

// defaultPath is what Debian's login gives root.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// preamble is the script's first line. It makes one stream of two: BuildKit
// reads them separately, and an error message could come before what led to it.
// And it undoes what BuildKit adds to every step's environment when its daemon
// traces; TRACEPARENT is random and would end up in build records.
const preamble = "exec 2>&1; unset TRACEPARENT OTEL_TRACES_EXPORTER OTEL_EXPORTER_OTLP_TRACES_ENDPOINT OTEL_EXPORTER_OTLP_TRACES_PROTOCOL\n"

// graph makes the step's LLB and the blobs it refers to.
//
// Base and inputs are content-addressed sources (an OCI layout and single blobs
// of an OCI store, both served by this process over the session). Their cache
// keys are their digests, so a step's key depends on content alone: not on
// paths, times or the machine. A blob is sent once and only when a step that
// needs it really runs; a hit asks for none. llb.Local was the alternative: it
// compares directory listings at every run and mixes a per-client id into the
// key, which a fleet would not share.
func graph(ctx context.Context, s *Step, platform ocispecs.Platform) (*llb.Definition, *blobs, error) {
	files := newBlobs(s.Base.Layout)

	hexa := s.Base.Digest.Hex()
	base := llb.OCILayout("sovereign.invalid/base@"+string(s.Base.Digest),
		llb.OCIStore("", storeID),
		llb.WithCustomName(baseVertex+hexa[:12]))

	work := llb.ForceNoOutput
	if s.Memory {
		work = llb.Tmpfs()
	}
	opts := []llb.RunOption{
		llb.Args([]string{"/bin/sh", "-eu", "-c", preamble + s.Script}),
		llb.Network(pb.NetMode_NONE),
		llb.Dir(s.dir()),
		llb.WithCustomName(s.Name),
		llb.AddMount(s.dir(), llb.Scratch(), work),
	}
	if s.Hostname != "" {
		opts = append(opts, llb.Hostname(s.Hostname))
	}
	for _, kv := range environment(s.Env) {
		k, v, _ := strings.Cut(kv, "=")
		opts = append(opts, llb.AddEnv(k, v))
	}
	inputs := slices.Clone(s.Inputs)
	slices.SortFunc(inputs, func(a, b Input) int { return strings.Compare(a.Dest, b.Dest) })
	for _, in := range inputs {
		if err := files.add(digest.Digest(in.Digest), in.Path); err != nil {
			return nil, nil, fmt.Errorf("step %q: input %s: %w", s.Name, in.Dest, err)
		}
		perm := os.FileMode(0o444)
		if in.Executable {
			perm = 0o555
		}
		// One name for every file keeps the key free of Dest, so the same
		// tarball under two names is stored once.
		const name = "file"
		blob := llb.OCILayoutBlob("sovereign.invalid/input@"+string(in.Digest),
			llb.ImageBlobOCIStore("", storeID), llb.Filename(name), llb.Chmod(perm),
			llb.WithCustomName(inputVertex+path.Base(in.Dest)))
		opts = append(opts, llb.AddMount(in.Dest, blob, llb.SourcePath(name), llb.Readonly))
	}

	run := base.Run(opts...)
	out := run.AddMount(s.Output, llb.Scratch())
	def, err := out.Marshal(ctx, llb.Platform(platform))
	if err != nil {
		return nil, nil, fmt.Errorf("step %q: %w", s.Name, err)
	}
	return def, files, nil
}

// environment is the step's own, sorted, with PATH and HOME where missing.
func environment(env []string) []string {
	out := slices.Clone(env)
	for _, def := range []string{defaultPath, "HOME=/root"} {
		key := def[:strings.IndexByte(def, '=')+1]
		if !slices.ContainsFunc(out, func(kv string) bool { return strings.HasPrefix(kv, key) }) {
			out = append(out, def)
		}
	}
	slices.Sort(out)
	return out
}
