package cli

import (
	"context"
	"io"
	"time"

	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
)

// Builder makes bundles and locks; pkg/build does it for the real program.
type Builder interface {
	Build(ctx context.Context, r BuildRequest) (*BuildResult, error)
	// Plan says what Build would do, and does nothing.
	Plan(ctx context.Context, r BuildRequest) (*build.Plan, error)
	// Rebuild is Build with another lock than the one beside the recipe, which it
	// leaves alone.
	Rebuild(ctx context.Context, r BuildRequest, l *lock.Lock) (*BuildResult, error)
	// Repro builds twice; only names the steps to do again, none is all.
	Repro(ctx context.Context, r BuildRequest, only []string) (*ReproResult, error)
	Lock(ctx context.Context, r LockRequest) (*LockResult, error)
	// Outdated looks for newer versions and changes nothing.
	Outdated(ctx context.Context, r LockRequest) (*OutdatedResult, error)
}

// BuildRequest is what the flags of build say.
type BuildRequest struct {
	Recipe          string
	Arch            string // "" is this machine's
	Output          string
	CacheDir        string
	Engine          string
	EngineTLS       engine.TLS
	CacheFrom       []string
	CacheTo         []string
	Shared          SharedCache
	StepTimeout     time.Duration
	Jobs            int
	Repositories    []string
	Keys            []string
	Offline         bool
	RelockMissing   bool
	Frozen          bool
	DryRun          bool
	CheckSums       bool
	WriteSums       bool
	SourceDateEpoch string // "" is the lock's
	ProgressMode    string
	Progress        io.Writer
}

// BuildResult is what build prints.
type BuildResult = build.Result

// ReproResult is what repro prints.
type ReproResult = build.ReproResult

// LockRequest is what the flags of lock say.
type LockRequest struct {
	Recipe   string
	CacheDir string
	// Update names inputs to look for a newer version of; empty keeps what is
	// locked and adds what is missing.
	Update []string
	// Check compares and writes nothing, Outdated looks and writes nothing.
	Check    bool
	Outdated bool
	Progress io.Writer
}

// LockResult is what lock prints.
type LockResult struct {
	Lock    string   `json:"lock"`              // the file
	Inputs  int      `json:"inputs"`            // in it
	Changes []string `json:"changes,omitempty"` // "zlib 1.3 → 1.3.1"
	Notes   []string `json:"notes,omitempty"`   // listed and not to be had, older than before
}

// OutdatedResult is what lock --outdated prints.
type OutdatedResult = build.OutdatedResult
