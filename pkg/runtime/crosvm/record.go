package crosvm

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// recordFile is the driver's own record in a machine's directory: what crosvm
// does not tell of a machine that it runs.
const recordFile = "crosvm.json"

const maxRecord = 64 << 10

type record struct {
	Program string `json:"program"`
	Build   string `json:"build"`            // see probed
	Kernel  string `json:"kernel,omitempty"` // the guest's, by digest
	// CID is the machine's number for vsock, as of its last start.
	CID       uint32 `json:"cid"`
	MemoryMiB int    `json:"memory_mib"` // as crosvm has it
	// Disks are the serials in the order of the command line, by which crosvm
	// numbers disks.
	Disks []string `json:"disks"`
	CPUs  int      `json:"cpus"`
	// Up: the guest has proven its key since the last start.
	Up bool `json:"up"`
	// MaxCPUs is the most that a guest comes up with, where more were tried in
	// vain with Build; 0: that is not known.
	MaxCPUs int `json:"max_cpus,omitempty"`
}

// readRecord reads the record of a directory; one that is not there is zero.
func readRecord(dir string) (record, error) {
	var r record
	path := filepath.Join(dir, recordFile)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return r, fault.Wrap(fault.Environment, err)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&r); err != nil {
		return r, fault.Errorf(fault.Environment, "%s: %w", path, err).
			Hintf("stop the machine and remove that file: it is made anew")
	}
	return r, nil
}

func writeRecord(dir string, r record) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, recordFile), append(text, '\n'), 0o600)
}

// nextCPUs is the MaxCPUs of the next start, after the one of the record ended so
// (nil: it is not known how). A guest that was reset or crashed before it came up
// is tried with fewer; one that does not come up with one CPU either has another
// fault, and gets all of them again. What has not come up yet says nothing of
// another kernel.
func (r record) nextCPUs(build, kernel string, end *os.ProcessState) int {
	switch {
	case r.Build != build, !r.Up && r.Kernel != kernel:
		return 0
	case r.Up, end == nil, !atOdds(end):
		return r.MaxCPUs
	case r.CPUs == 1:
		return 0
	}
	return fewerCPUs(r.CPUs)
}
