package kernel

import (
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// ReadConfig reads a .config from a file, compressed with gzip
// (/proc/config.gz), xz or zstd or not.
func ReadConfig(path string) (*Config, error) {
	return readFile(path, path, ParseConfig)
}

// ReadFragment reads a fragment from a file. name is what messages call it; an
// empty name is the path.
func ReadFragment(path, name string) (*Config, error) {
	if name == "" {
		name = path
	}
	return readFile(path, name, ParseFragment)
}

func readFile(path, name string, parse func(string, io.Reader) (*Config, error)) (c *Config, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.Errorf(fault.Usage, "kernel configuration: %w", err).
			Hintf("check the path in the recipe or on the command line")
	}
	if err != nil {
		return nil, fault.Errorf(fault.Environment, "kernel configuration: %w", err).
			Hintf("check that the file can be read")
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r, err := Decompress(name, f)
	if err != nil {
		return nil, err
	}
	return parse(name, r)
}

// Decompress returns the text of r, which is gzip, xz or zstd data or the text
// itself. Reading more than MaxSize bytes of it is left to the parsers to refuse.
func Decompress(name string, r io.Reader) (io.Reader, error) {
	text, err := decompressed(r)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "%s: %w", name, err).
			Hintf("%s", cmp.Or(fault.HintOf(err), "check that the file is whole"))
	}
	return text, nil
}
