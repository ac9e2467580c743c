// Package doctor looks whether this machine has what running and building
// bundles need.
//
// Directories and, for the trial of KVM, a bundle come in; findings go out, of
// which each says what to do. The package mends nothing and leaves nothing
// behind but the state directory.
package doctor

import (
	"context"

	"github.com/sovereign-build/sovereign/internal/hints"
	"github.com/sovereign-build/sovereign/pkg/arch"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

// Level says how bad a finding is.
type Level string

// Levels.
const (
	OK      Level = "ok"
	Warning Level = "warning" // it works, slower or less surely
	Missing Level = "missing" // it does not work without
)

// What a finding is about.
const (
	ForRun   = "run"
	ForBuild = "build"
)

// A Finding is the outcome of one check. Its JSON is part of what scripts rely
// on.
type Finding struct {
	For   string `json:"for"`   // ForRun or ForBuild
	Check string `json:"check"` // what was looked at: "KVM"
	Level Level  `json:"level"`
	Text  string `json:"text"`
	Mend  string `json:"mend,omitempty"` // what to do about it
}

// Options say what to look at.
type Options struct {
	StateDir string // of pkg/runtime
	CacheDir string // of pkg/build
	// Bundle is the directory of a bundle whose kernel tries KVM and whose
	// memory is asked for; empty for none.
	Bundle string
	// Engine is the address of a BuildKit elsewhere; empty for one here.
	Engine string
	// Report takes lines about checks that take long.
	Report func(string)
}

// Examine makes all checks. The error is for ctx and for options that are
// wrong; everything else is a finding.
func Examine(ctx context.Context, o Options) ([]Finding, error) {
	e := &examiner{Options: o, host: thisHost()}
	if o.Bundle != "" {
		var err error
		if e.bundle, err = bundle.Load(o.Bundle); err != nil {
			return nil, err
		}
	}
	return e.examine(ctx)
}

// examiner makes the checks on a host, which tests replace.
type examiner struct {
	Options
	host
	bundle *bundle.Manifest
	found  []Finding
}

func (e *examiner) examine(ctx context.Context) ([]Finding, error) {
	if e.Report == nil {
		e.Report = func(string) {}
	}
	for _, goarch := range arch.Built() {
		e.qemu(ctx, goarch)
	}
	e.kvm(ctx)
	e.sovereignd()
	e.memory()
	e.stateDir()
	e.stateSpace()
	if err := e.engine(); err != nil {
		return nil, err
	}
	e.tools()
	e.cacheSpace()
	return e.found, context.Cause(ctx)
}

func (e *examiner) add(what, check string, level Level, text, mend string) {
	e.found = append(e.found, Finding{what, check, level, text, mend})
}

// fail adds an error as a finding.
func (e *examiner) fail(what, check string, level Level, err error) {
	e.add(what, check, level, err.Error(), hints.Of(err))
}

// hypervisor is the part of vm.Hypervisor that is asked.
type hypervisor interface {
	Prepare(ctx context.Context, m vm.Machine, report func(string)) (vm.Plan, error)
}
