package atomicfile

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// replacing are the calls that replace a file, empty it, or lock one. A file
// that is written by them can be found half written after a power cut, or
// empty, and a lock by them knows no context.
var replacing = map[string][]string{
	"os":                    {"Rename", "CreateTemp", "WriteFile", "Create", "O_TRUNC"},
	"io/ioutil":             {"TempFile", "WriteFile"},
	"syscall":               {"Rename", "Renameat", "Flock", "FcntlFlock", "O_TRUNC"},
	"golang.org/x/sys/unix": {"Rename", "Renameat", "Renameat2", "Flock", "FcntlFlock", "O_TRUNC"},
}

// excused are the uses outside of this package and its neighbours atomicdir
// and flock, each with its reason.
var excused = map[string]string{
	// Files that nobody looks for after a power cut.
	"internal/debtest/archive.go os.WriteFile":                    "a server's files, in tests",
	"internal/machine/snapshot.go os.O_TRUNC":                     "the scratch disk, of no use after its machine's end",
	"internal/machine/recovery.go os.Rename":                      "a disk on its way from a temporary machine, whose file system may be another",
	"internal/machine/machinetest/guest.go os.WriteFile":          "a fake machine's, in tests",
	"internal/machine/machinetest/machinetest.go os.Create":       "a fake machine's console, in tests",
	"internal/machine/machinetest/machinetest.go os.WriteFile":    "a fake machine's, in tests",
	"internal/machine/machinetest/machinetest.go unix.FcntlFlock": "the lock that QEMU takes on a disk image, in tests",
	"internal/torture/machine.go os.O_TRUNC":                      "the report of a torture's run",
	"pkg/build/gosource.go os.WriteFile":                          "a directory of the build's own, thrown away after",
	"pkg/build/source/apt.go os.WriteFile":                        "apt's configuration, made again whenever its lists are",
	"pkg/build/source/get.go os.CreateTemp":                       "a download on its way into the store",
	"pkg/build/source/npm.go os.Create":                           "a directory of the build's own, thrown away after",
	"pkg/build/source/gomodules.go os.WriteFile":                  "a directory of the build's own, thrown away after",
	"pkg/build/toolchain/bootstrap.go os.O_TRUNC":                 "a log",
	"pkg/build/toolchain/repository.go os.WriteFile":              "a directory of the build's own, thrown away after",
	"pkg/build/transfer/transfer.go os.WriteFile":                 "a directory of the program's own, thrown away after",
	"pkg/rootfs/apk/repository.go os.CreateTemp":                  "a download that the caller removes",
	"pkg/rootfs/internal/treetest/bench.go os.WriteFile":          "a benchmark's input",
	"internal/process/socket.go os.WriteFile":                     "an empty file that says that a socket is listened at",
	// In a directory that gets its name when it is whole and synced.
	"pkg/build/toolchain/layer.go os.Create":     "Ensure syncs the whole layout and renames it",
	"pkg/build/release/make.go os.WriteFile":     "a file of an atomicdir, which is synced when it gets its name",
	"pkg/runtime/daemon/bundles.go os.WriteFile": "a directory that a bundle is taken from into a slot, thrown away after",
	"pkg/bundle/write.go os.WriteFile":           "Writer syncs each file and renames the directory",
	// Logs are turned; after a power cut the longer one is turned again.
	"pkg/runtime/guest/logs/logs.go os.Rename":     "a log",
	"internal/machine/console_bound.go os.O_TRUNC": "the console's log",
	"internal/machine/console_bound.go os.Rename":  "the console's and the hypervisor's logs",
	// Files of the kernel, which take a value by a write.
	"pkg/runtime/guest/initd/start.go os.WriteFile":       "cgroups",
	"pkg/runtime/guest/network/keep.go os.WriteFile":      "a sysctl",
	"pkg/runtime/guest/proc/proc.go os.WriteFile":         "oom_score_adj",
	"pkg/runtime/guest/snapshot/snapshot.go os.WriteFile": "a disk's write cache",
	"internal/android/oom.go os.WriteFile":                "oom_score_adj",
	"internal/process/command.go os.WriteFile":            "oom_score_adj",
	// Locks of another kind.
	"internal/process/lock.go unix.FcntlFlock": "the lock that QEMU takes on a disk image, to see whether it has",
	// Names in a directory whose temporary files are locked by their writers.
	"pkg/build/store/session.go os.CreateTemp": "the file is its session's lock, and holds notes of no use after it",
	"pkg/build/store/writer.go os.CreateTemp":  "a blob's name is known at its end; it is renamed by Rename",
}

// TestUses keeps the program's files replaced in one way.
func TestUses(t *testing.T) {
	root := filepath.Join("..", "..")
	found := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if d.IsDir() {
			_, err := os.Stat(filepath.Join(path, "go.mod"))
			otherModule := name != "." && err == nil
			if d.Name() == "testdata" || otherModule || name != "." && strings.HasPrefix(d.Name(), ".") ||
				slices.Contains([]string{"internal/atomicfile", "internal/atomicdir", "internal/flock", "internal/testphone", "internal/bundletest", "bin", "dist"}, name) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		uses, err := usesOf(path)
		for _, use := range uses {
			found[name+" "+use] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, use := range slices.Sorted(maps.Keys(found)) {
		if excused[use] == "" {
			t.Errorf("%s: use package atomicfile, atomicdir or flock, or say in excused why not", use)
		}
	}
	for _, use := range slices.Sorted(maps.Keys(excused)) {
		if !found[use] {
			t.Errorf("%s is excused and not there: remove it from the list", use)
		}
	}
}

// usesOf lists the uses of replacing in a file: "os.Rename".
func usesOf(path string) ([]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	names := map[string][]string{} // what is watched, by the package's name in this file
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			return nil, err
		}
		name := filepath.Base(imported)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = replacing[imported]
	}
	var uses []string
	ast.Inspect(f, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && slices.Contains(names[x.Name], s.Sel.Name) {
				uses = append(uses, x.Name+"."+s.Sel.Name)
			}
		}
		return true
	})
	return uses, nil
}

func TestUsesOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.go")
	text := "package x\n\nimport (\n\tfiles \"os\"\n\t\"golang.org/x/sys/unix\"\n)\n\nvar _ = files.Rename\n\nfunc f() { unix.Flock(0, 0); files.Open(\"\"); os.Rename() }\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	uses, err := usesOf(path)
	if err != nil || !slices.Equal(uses, []string{"files.Rename", "unix.Flock"}) {
		t.Errorf("%v, %v", uses, err)
	}
}
