package services

import (
	"debug/elf"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Reading ahead is a wish: nothing here fails, and whatever is wrong with a
// program or a library, its start will say.

// readAhead has the kernel read a program that is about to run, which another
// processor can do (and check by dm-verity) while the setup runs.
func readAhead(program string) {
	fd, err := unix.Open(program, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)                       //nolint:errcheck // it was only read
	unix.Fadvise(fd, 0, 0, unix.FADV_WILLNEED) //nolint:errcheck // a wish
}

// libraryDirs are where musl's loader looks.
var libraryDirs = []string{"/lib", "/usr/local/lib", "/usr/lib"}

// maxLibraries bounds what is read for one program; PostgreSQL has eight.
const maxLibraries = 64

// readLibraries reads the shared libraries, out of dirs, of a program that has
// just started, and says which. The program itself reads here and there in
// them, and waits each time for the disk and dm-verity; another processor has
// all of it sooner.
func readLibraries(program string, dirs []string) (read []string) {
	wanted := imported(program)
	for i := 0; i < min(len(wanted), maxLibraries); i++ { // it grows
		for _, dir := range dirs {
			path := filepath.Join(dir, wanted[i])
			if !readThrough(path) {
				continue
			}
			read = append(read, path)
			for _, next := range imported(path) {
				if !slices.Contains(wanted, next) {
					wanted = append(wanted, next)
				}
			}
			break
		}
	}
	return read
}

// imported is what a program or a library is linked with.
func imported(path string) []string {
	f, err := elf.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close() //nolint:errcheck // it was only read
	names, err := f.ImportedLibraries()
	if err != nil {
		return nil
	}
	return names
}

// readThrough brings a file into memory piece by piece, each one when the last
// is there: what the program itself waits for has to wait for one piece of
// these at most. It says whether there is such a file.
func readThrough(path string) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd) //nolint:errcheck // it was only read
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	const piece = 128 << 10
	var last [1]byte
	for at := int64(0); at < st.Size; at += piece {
		end := min(at+piece, st.Size)
		if unix.Fadvise(fd, at, end-at, unix.FADV_WILLNEED) != nil {
			break
		}
		if n, err := unix.Pread(fd, last[:], end-1); n != 1 || err != nil {
			break
		}
	}
	return true
}
