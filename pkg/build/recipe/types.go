// Package recipe reads the files that people write: recipe.yaml (what a
// virtual machine is), port.yaml (how a package is built from source) and
// sources.yaml (where upstream's source comes from).
//
// YAML comes in and plain, checked values go out. Reading is strict: an
// unknown key, a wrong type or a missing file is an error of class
// fault.Usage that begins with file:line:column. The package fetches, builds
// and writes nothing.
package recipe

// Recipe is recipe.yaml: one virtual machine, for every architecture.
type Recipe struct {
	// Schema is the version of the format, 1.
	Schema int `yaml:"schema"`
	// Name is the instance's and the bundle's name: lower case letters,
	// digits and dashes, at most 32, beginning with a letter.
	Name    string `yaml:"name"`
	Summary string `yaml:"summary"`
	// Architectures is a non-empty subset of amd64 and arm64.
	Architectures []string `yaml:"architectures"`

	// Toolchain is the directory of the toolchain image, relative to the
	// recipe; Ports that of the packages built from source; Sources the list
	// of upstream sources.
	Toolchain string `yaml:"toolchain"`
	Ports     string `yaml:"ports"`
	Sources   string `yaml:"sources"`

	Kernel Kernel `yaml:"kernel"`

	// Repositories are more apk repositories, URLs or directories, after the
	// ports'. Keys are their public keys' files.
	Repositories []string `yaml:"repositories,omitempty"`
	Keys         []string `yaml:"keys,omitempty"`
	// Packages is the world: apk dependencies, "icu-data-full" or
	// "postgresql17>=17.4".
	Packages []string `yaml:"packages"`

	Users []User `yaml:"users,omitempty"`
	Files []File `yaml:"files,omitempty"`

	VM       VM        `yaml:"vm"`
	Services []Service `yaml:"services"`

	// Dir is the directory the recipe was read from, absolute; paths in the
	// recipe are relative to it. Not part of the file.
	Dir string `yaml:"-" json:"-"`
	// Path is the file the recipe was read from.
	Path string `yaml:"-" json:"-"`
}

// Kernel says which kernel, from which fragments.
type Kernel struct {
	Source string `yaml:"source"` // name in sources.yaml
	// Fragments for every architecture, merged in order, relative to the
	// recipe. A later one overrides an earlier one, and the build says so.
	Fragments []string `yaml:"fragments"`
	// Arch holds further fragments by architecture.
	Arch map[string][]string `yaml:"arch,omitempty"`
	// Require names requirement sets of pkg/kernel that the final .config
	// must meet.
	Require []string `yaml:"require,omitempty"`
}

// User is an account (and a group of the same name) in the root image.
type User struct {
	Name  string `yaml:"name"`
	UID   int    `yaml:"uid"` // 1 to 65533; the group's GID too
	Home  string `yaml:"home,omitempty"`
	Shell string `yaml:"shell,omitempty"` // "/sbin/nologin"
}

// File is a file, directory or symbolic link of the recipe's own.
type File struct {
	Path string `yaml:"path"` // absolute, in the image
	// Exactly one of the four:
	From      string `yaml:"from,omitempty"`    // file beside the recipe
	Content   string `yaml:"content,omitempty"` // text, written as it is
	Link      string `yaml:"link,omitempty"`    // target of a symbolic link
	Directory bool   `yaml:"directory,omitempty"`
	// Mode is octal in quotes: "0644" by default, "0755" for a directory.
	Mode string `yaml:"mode,omitempty"`
	User string `yaml:"user,omitempty"` // owner, root by default
}

// VM is the machine's size.
type VM struct {
	Memory Size `yaml:"memory"` // "512MiB"
	CPUs   int  `yaml:"cpus"`   // 1 to 64
	Data   Size `yaml:"data"`   // size of the data disk, "8GiB", sparse
}

// Service mirrors spec.Service in the words of YAML; Spec converts it.
type Service struct {
	Name        string            `yaml:"name"`
	User        string            `yaml:"user,omitempty"`
	Environment map[string]string `yaml:"environment,omitempty"`
	After       []string          `yaml:"after,omitempty"`
	Directories []Directory       `yaml:"directories,omitempty"`
	Secrets     []Secret          `yaml:"secrets,omitempty"`
	Setup       [][]string        `yaml:"setup,omitempty"`
	Command     []string          `yaml:"command"`
	Reload      []string          `yaml:"reload,omitempty"`
	Stop        Stop              `yaml:"stop,omitempty"`
	Health      Health            `yaml:"health"`
	Limits      Limits            `yaml:"limits,omitempty"`
	Ports       []Port            `yaml:"ports,omitempty"`
}

// Directory is a directory a service needs at run time.
type Directory struct {
	Path string `yaml:"path"`
	Mode string `yaml:"mode,omitempty"`
}

// Secret is generated in the guest; the recipe only names it.
type Secret struct {
	Name  string `yaml:"name"`
	Bytes int    `yaml:"bytes,omitempty"` // 16 to 64, 24 by default
}

// Stop says how a service ends in order.
type Stop struct {
	Signal  string   `yaml:"signal,omitempty"`  // TERM by default
	Timeout Duration `yaml:"timeout,omitempty"` // 30s by default
}

// Health is a command that succeeds when the service does its work.
type Health struct {
	Command  []string `yaml:"command"`
	Starting []int    `yaml:"starting,omitempty"` // exit codes: alive, not ready
	Interval Duration `yaml:"interval,omitempty"` // 10s by default
	Timeout  Duration `yaml:"timeout,omitempty"`  // 5s by default
	Failures int      `yaml:"failures,omitempty"` // 3 by default
}

// Limits of a service.
type Limits struct {
	OpenFiles   uint64 `yaml:"open_files,omitempty"`
	Memory      Size   `yaml:"memory,omitempty"`
	OOMScoreAdj int    `yaml:"oom_score_adj,omitempty"`
}

// Port is a TCP port the service listens on in the guest.
type Port struct {
	Name string `yaml:"name"`
	Port int    `yaml:"port"`
	// URL is how a client reaches it: ${address} stands for host:port,
	// ${secret:NAME} for a secret of this service.
	URL string `yaml:"url,omitempty"`
}

// Source is one entry of sources.yaml: where a named upstream source comes
// from. Which version and which bytes is the lock's business.
type Source struct {
	Name string `yaml:"-"` // the entry's key
	// URL is upstream's, with ${version}; empty where upstream publishes no
	// file with the bytes Debian has.
	URL string `yaml:"url,omitempty"`
	// Debian names the source package whose .orig tarball holds the bytes.
	Debian Debian `yaml:"debian"`
	// Series restricts what a re-lock may choose: "17" allows 17.12 and 17.13
	// but not 18.0.
	Series string `yaml:"series,omitempty"`
}

// Debian names a file of a Debian source package.
type Debian struct {
	Suite  string `yaml:"suite"`
	Source string `yaml:"source"`
	// Component picks NAME_VERSION.orig-COMPONENT.tar.*; empty is the main
	// orig tarball, or the only tarball of a native package.
	Component string `yaml:"component,omitempty"`
}

// PortFile is port.yaml: one package, or a family split from one build.
type PortFile struct {
	Name    string `yaml:"name"`
	Summary string `yaml:"summary"`
	License string `yaml:"license"` // SPDX expression
	URL     string `yaml:"url"`
	// Version is the version of the apk; empty takes that of the first
	// source in the lock.
	Version string `yaml:"version,omitempty"`
	Release int    `yaml:"release"` // apk's -rN
	// Sources are names in sources.yaml; each is a read-only file in
	// $SRC/NAME in the step.
	Sources []string `yaml:"sources,omitempty"`
	// Build are packages of other ports, installed with their dependencies
	// in the step's $SYSROOT.
	Build []string `yaml:"build,omitempty"`
	// Go makes it a Go port: the step has the pinned Go toolchain and the
	// modules of the port's own go.mod and go.sum.
	Go *GoPort `yaml:"go,omitempty"`
	// Host packages of the toolchain image the step needs are not named: the
	// image is one.

	// Packages splits what the build script left in $OUT. A file goes to the
	// first package with a matching pattern; one that no pattern takes is an
	// error.
	Packages []PortPackage `yaml:"packages"`

	Dir  string `yaml:"-" json:"-"`
	Path string `yaml:"-" json:"-"`

	pos *document // where each value stood, for checks after reading
}

// GoPort says where the Go module of a port is.
type GoPort struct {
	// Source is "port" (go.mod and the like in the port's directory) or
	// "sovereign" (this module's own guest programs).
	Source string `yaml:"source"`
}

// PortPackage is one apk made by a port.
type PortPackage struct {
	Name    string `yaml:"name"`
	Summary string `yaml:"summary,omitempty"`
	// Files are patterns relative to $OUT: "usr/bin/*", "usr/lib/**"; ** at
	// any depth.
	Files []string `yaml:"files"`
	// Depends, Provides, Replaces and InstallIf are apk's own; ${version}
	// stands for VERSION-rRELEASE. Shared libraries (so:), commands (cmd:)
	// and pkg-config files are found by the tool.
	Depends   []string `yaml:"depends,omitempty"`
	Provides  []string `yaml:"provides,omitempty"`
	Replaces  []string `yaml:"replaces,omitempty"`
	InstallIf []string `yaml:"install_if,omitempty"`
	// Owners gives files other owners than root: pattern to "uid:gid".
	Owners map[string]string `yaml:"owners,omitempty"`
}
