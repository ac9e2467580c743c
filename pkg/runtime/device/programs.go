package device

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/pkg/arch"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Programs is a directory with programs for devices: sovereignd-linux-amd64,
// sovereignd-linux-arm64, and sovereignd, which is for either; sovereign-backup
// likewise.
type Programs string

// Beside are the programs beside this one, where make puts them.
func Beside() (Programs, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fault.Wrap(fault.Environment, err)
	}
	return Programs(filepath.Dir(self)), nil
}

// A Program is one of them, open and read once. It reads from its begin.
type Program struct {
	*os.File
	Path   string
	Digest string // "sha256:…"
	Size   int64
}

func (p *Program) bare() string { return strings.TrimPrefix(p.Digest, "sha256:") }

const (
	daemonName = "sovereignd"
	backupName = backupjob.Program
)

// For opens the sovereignd for an architecture, by Go's name.
func (p Programs) For(arch string) (*Program, error) {
	program, err := p.open(daemonName, arch)
	if program == nil && err == nil {
		name := daemonName + "-linux-" + arch
		err = fault.Errorf(fault.Environment, "there is no %s in %s, and no sovereignd for %s", name, p, arch).
			Hintf("build it with make bin/%s", name)
	}
	return program, err
}

// ForBackups opens the sovereign-backup for an architecture; nil is for none.
func (p Programs) ForBackups(arch string) (*Program, error) { return p.open(backupName, arch) }

func (p Programs) open(name, arch string) (*Program, error) {
	for _, candidate := range []string{name + "-linux-" + arch, name} {
		program, err := openProgram(filepath.Join(string(p), candidate), arch)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errOtherArch) {
			continue
		}
		return program, fault.Wrap(fault.Environment, err)
	}
	return nil, nil
}

var errOtherArch = errors.New("it is for another architecture")

func openProgram(path, goarch string) (_ *Program, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	image, err := elf.NewFile(f)
	if err != nil {
		return nil, fault.Errorf(fault.Environment, "%s is not a program for Linux: %w", path, err)
	}
	if a, ok := arch.Of(goarch); !ok || image.Machine != a.ELF {
		return nil, errOtherArch
	}
	h := sha256.New()
	size, err := io.Copy(h, f)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, err
	}
	return &Program{f, path, "sha256:" + hex.EncodeToString(h.Sum(nil)), size}, nil
}
