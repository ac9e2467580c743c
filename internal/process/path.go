package process

import (
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// LookPath finds a program in the absolute directories of PATH.
//
// It is not exec.LookPath, which asks the kernel by faccessat2: Android ends an
// app's process for that call, whatever it would have answered
// (https://go.dev/issue/57393), and with it a sovereignd in Termux.
func LookPath(name string) (string, error) {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if path := filepath.Join(dir, name); filepath.IsAbs(path) {
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && unix.Access(path, unix.X_OK) == nil {
				return path, nil
			}
		}
	}
	return "", &exec.Error{Name: name, Err: exec.ErrNotFound}
}

// Beside finds a program in the directory of this one.
func Beside(name string) (path string, ok bool) {
	self, err := os.Executable()
	if err != nil {
		return "", false
	}
	path = filepath.Join(filepath.Dir(self), name)
	_, err = os.Stat(path)
	return path, err == nil
}

// FindProgram finds one of our programs: beside this one, else in PATH.
func FindProgram(name string) (string, error) {
	if path, ok := Beside(name); ok {
		return path, nil
	}
	return LookPath(name)
}
