package machine

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/vm"
)

const (
	recordFile   = "instance.json"
	dataFile     = "data.img"
	recordSchema = 5
	maxRecord    = 1 << 20
)

// record is instance.json. Schema 1 had none of the fields of installed; schema 2
// had nothing of the data disk; in those and in schema 3 nothing was wanted of a
// machine that was started from a bundle's directory; schema 4 remembered nothing
// of the disk's history.
type record struct {
	Schema  int       `json:"schema"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Bundle  BundleRef `json:"bundle"`
	Ports   []Port    `json:"ports"`
	Machine MachineID `json:"machine"`
	// Data is nil before the first start.
	Data *DataDisk `json:"data,omitempty"`
	// NewData: the next start takes what is there as the data disk, or makes a
	// blank one, whatever Data says.
	NewData bool `json:"new_data,omitempty"`
	// Swap is nil but while a restored disk takes the place of another.
	Swap *swap `json:"swap,omitempty"`
	// Temporary: a drill made it, and removes it.
	Temporary bool `json:"temporary,omitempty"`
	// Continuity is what the guest said last of its disk's history; nil before
	// the first word.
	Continuity *Witnessed `json:"continuity,omitempty"`
	// Challenge is what a witness elsewhere knows of that history, where the disk
	// that runs does not lead there: the next start holds the disk to it.
	Challenge *Witnessed `json:"challenge,omitempty"`
	// GivenUp is the newest moment of a history that its owner has given up, by a
	// disk restored in its place say: a witness that still has it, or one before,
	// is told what goes on instead.
	GivenUp *Witnessed `json:"given_up,omitempty"`
	// Kept is the copy of the data disk from before the last update; nil for
	// none.
	Kept *Kept `json:"kept,omitempty"`
	// Renamed is the name that the instance has once its directory has it.
	Renamed string `json:"renamed,omitempty"`
	// Clone names the copy of another machine's disk that this one begins with;
	// empty once the disk has a history of its own.
	Clone string `json:"clone,omitempty"`
	// Process is nil when the machine was stopped in order, or is about to
	// start.
	Process *vm.Process `json:"process,omitempty"`
	// Network is what it has in the host's network, as of its last start; nil
	// where its hypervisor has the network.
	Network *joined `json:"network,omitempty"`
	installed
}

func parseRecord(path string, data []byte) (record, error) {
	var rec record
	if len(data) > maxRecord {
		return rec, fault.Errorf(fault.Environment, "%s is larger than %d bytes", path, maxRecord)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	const hint = "if it was edited, undo that; else move the directory away, keeping its data.img"
	if err := dec.Decode(&rec); err != nil {
		return rec, fault.Errorf(fault.Environment, "%s: %w", path, err).Hintf(hint)
	}
	if rec.Schema < 1 || rec.Schema > recordSchema {
		return rec, fault.Errorf(fault.Environment, "%s: schema %d is not one from 1 to %d, which this program reads", path, rec.Schema, recordSchema).
			Hintf("use the version of this program that wrote it")
	}
	if rec.Schema >= 4 && rec.Wanted == notAdopted {
		return rec, fault.Errorf(fault.Environment, "%s: it does not say what is wanted", path).Hintf(hint)
	}
	rec.Schema = recordSchema
	if !nameForm.MatchString(rec.Name) {
		return rec, fault.Errorf(fault.Environment, "%s: name %q is not an instance's", path, rec.Name).Hintf(hint)
	}
	for _, p := range rec.Ports {
		if p.Guest < 1 || p.Guest > 65535 || p.Host < 1 || p.Host > 65535 {
			return rec, fault.Errorf(fault.Environment, "%s: port %d at %d is out of range", path, p.Guest, p.Host).Hintf(hint)
		}
	}
	err := rec.check()
	if rec.Wanted == Up && rec.Active == "" && rec.Process == nil {
		err = errors.New("wanted up without an active slot and a process")
	}
	if err != nil {
		return rec, fault.Errorf(fault.Environment, "%s: %w", path, err).Hintf(hint)
	}
	return rec, nil
}

// load reads an instance's files; an instance that is not there is
// fs.ErrNotExist.
func (r *Runtime) load(name string) (*Instance, error) {
	dir := r.instanceDir(name)
	path := filepath.Join(dir, recordFile)
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	rec, err := parseRecord(path, data)
	if err != nil {
		return nil, err
	}
	i := &Instance{r: r, dir: dir, rec: rec}
	if !i.takeName(name) && rec.Name != name {
		return nil, fault.Errorf(fault.Environment, "%s: it is the record of %s", path, rec.Name).
			Hintf("move the directory away")
	}
	m, err := bundle.Load(dir)
	if err != nil {
		return nil, err
	}
	i.manifest = m
	return i, nil
}

// save writes the record. The manifest is written first: a record without one
// could not be read.
func (i *Instance) save() error {
	text, err := bundle.Marshal(i.manifest)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(i.dir, bundle.ManifestFile), text, 0o600); err != nil {
		return err
	}
	i.r.did("manifest")
	return i.saveRecord()
}

func (i *Instance) saveRecord() error {
	data, err := json.MarshalIndent(i.rec, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(i.dir, recordFile), append(data, '\n'), 0o600); err != nil {
		return err
	}
	i.r.did("record")
	return nil
}
