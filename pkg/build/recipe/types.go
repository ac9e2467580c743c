// Package recipe reads the files that people write: recipe.yaml (what a
// virtual machine is), port.yaml (how a package is built from source) and
// sources.yaml (where upstream's source comes from).
//
// YAML comes in and plain, checked values go out. Reading is strict: an
// unknown key, a wrong type or a missing file is an error of class
// fault.Usage that begins with file:line:column. The package fetches, builds
// and writes nothing.
//
// Load reads from this machine and Parse from any fs.FS, such as an embed.FS. A
// [Recipe] may as well be made in Go; Checked then does what Parse does after
// reading.
package recipe

import "io/fs"

// Recipe is recipe.yaml: one virtual machine, for every architecture.
type Recipe struct {
	// Schema is the version of the format, 1.
	Schema int `yaml:"schema"`
	// Name is the instance's and the bundle's name: lower case letters,
	// digits and dashes, at most 32, beginning with a letter.
	Name string `yaml:"name"`
	// Summary is one line for people.
	Summary string `yaml:"summary"`
	// Architectures is a non-empty subset of amd64, arm64 and riscv64.
	Architectures []string `yaml:"architectures"`

	// Include is the directory of a recipe that this one begins with, relative
	// to the recipe. A key that is given here takes the place of that recipe's,
	// but packages, repositories, keys, actions, users, files and services are
	// added to its own. A user or a file of the same name takes the other's
	// place; a service of the same name changes the keys that it gives. It is
	// empty in a recipe that was loaded, which has all of the other in it.
	Include string `yaml:"include,omitempty"`

	// Toolchain is the directory of the toolchain image, relative to the
	// recipe.
	Toolchain string `yaml:"toolchain"`
	// Ports is the directory of the packages built from source, relative to
	// the recipe.
	Ports string `yaml:"ports"`
	// Sources is the list of upstream sources, a file relative to the recipe.
	Sources string `yaml:"sources"`

	// Kernel says which kernel is built.
	Kernel Kernel `yaml:"kernel"`

	// Repositories are more apk repositories, URLs or directories, after the
	// ports'. One with a tag before it ("@edge https://…") serves only packages
	// that ask for it ("name@edge").
	Repositories []string `yaml:"repositories,omitempty"`
	// Keys are the files of the public keys the repositories are signed with,
	// relative to the recipe. They count for every repository that is not in
	// Trust.
	Keys []string `yaml:"keys,omitempty"`
	// Trust says for single repositories, by location without a tag, whose
	// signatures count there: nobody else's do.
	Trust map[string]Trust `yaml:"trust,omitempty"`
	// Release says who signs the bundles.
	Release Release `yaml:"release,omitempty"`
	// Cache says whose results of compile steps are taken from shared caches.
	Cache Cache `yaml:"cache,omitempty"`
	// Packages is the world: apk dependencies, "icu-data-full" or
	// "postgresql17>=17.4".
	Packages []string `yaml:"packages"`
	// Actions stand for the packages' install scripts, which are never run.
	Actions []Action `yaml:"actions,omitempty"`

	// Users are accounts in the image, beside root and nobody.
	Users []User `yaml:"users,omitempty"`
	// Files are the recipe's own, laid over those of the packages.
	Files []File `yaml:"files,omitempty"`

	// Root is how the image of the root file system is written.
	Root Root `yaml:"root,omitempty"`
	// VM is the machine's size.
	VM VM `yaml:"vm"`
	// Services are the programs the guest supervises.
	Services []Service `yaml:"services"`

	// FS holds the files that the recipe names; nil is this machine's own file
	// system. Not part of the file.
	FS fs.FS `yaml:"-" json:"-"`
	// Dir is the recipe's directory: paths in the recipe are relative to it. It
	// is a name in FS, or absolute on this machine.
	Dir string `yaml:"-" json:"-"`
	// Path is the file the recipe was read from, for messages; empty for one
	// that was made in Go.
	Path string `yaml:"-" json:"-"`
}

// Release says who signs the recipe's bundles.
type Release struct {
	// Key is the file of the public key, relative to the recipe, as minisign and
	// sovereign-build key new write it. It goes into the bundle's manifest, and a
	// machine that once has it takes nothing else than what it signs.
	Key string `yaml:"key"`
}

// Cache says whose results of compile steps are taken.
type Cache struct {
	// Keys are the files of public keys, relative to the recipe, as minisign and
	// sovereign-build key new write them. What they have signed counts for this
	// recipe, as if it had been compiled here.
	Keys []string `yaml:"keys"`
}

// Trust is what the index and the packages of a repository have to be signed
// with.
type Trust struct {
	// Keys are the files of public keys, relative to the recipe.
	Keys []string `yaml:"keys"`
	// SHA1 is "refuse" where signatures over SHA-1 do not count, as is wise for
	// a repository of one's own. Alpine's need them, and "allow" is the default.
	SHA1 string `yaml:"sha1,omitempty"`
}

// Kernel says which kernel, with which patches, from which fragments.
type Kernel struct {
	// Source is a name in sources.yaml.
	Source string `yaml:"source"`
	// Patches are unified diffs (*.patch, paths as a/… and b/…), applied to
	// the source in order, for every architecture. Their context has to match.
	Patches []string `yaml:"patches,omitempty"`
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
	// Name is the account's and its group's.
	Name string `yaml:"name"`
	// UID is from 1 to 65533, and the group's GID too.
	UID int `yaml:"uid"`
	// Home is "/" by default.
	Home string `yaml:"home,omitempty"`
	// Shell is "/sbin/nologin" by default.
	Shell string `yaml:"shell,omitempty"`
}

// File is a file, directory or symbolic link of the recipe's own.
type File struct {
	// Path is absolute, in the image, and not below /data, /dev, /proc, /run,
	// /sys or /tmp, which the guest mounts over.
	Path string `yaml:"path"`
	// From is a file of this machine, relative to the recipe, that holds the
	// contents. Exactly one of from, content, link and directory is given.
	From string `yaml:"from,omitempty"`
	// Content is the contents, written as they are.
	Content string `yaml:"content,omitempty"`
	// Link makes a symbolic link with this target.
	Link string `yaml:"link,omitempty"`
	// Directory, when true, makes an empty directory.
	Directory bool `yaml:"directory,omitempty"`
	// Mode is octal in quotes: "0644" by default, "0755" for a directory.
	Mode string `yaml:"mode,omitempty"`
	User string `yaml:"user,omitempty"` // owner, root by default
}

// Root is how the image of the root file system is written.
type Root struct {
	// Compression of files is zstd or lz4; by default there is none. The
	// kernel has to have CONFIG_EROFS_FS_ZIP, for zstd also
	// CONFIG_EROFS_FS_ZIP_ZSTD.
	Compression string `yaml:"compression,omitempty"`
	// Level is from 1, the fastest to write, to 4, the smallest image; 2 by
	// default.
	Level int `yaml:"level,omitempty"`
	// Cluster is the most that is read and decompressed at once, a multiple of
	// 4KiB up to 1MiB; 64KiB by default.
	Cluster Size `yaml:"cluster,omitempty"`
}

// VM is the machine's size.
type VM struct {
	// Memory is a whole number of MiB, 64MiB at least.
	Memory Size `yaml:"memory"`
	// CPUs is from 1 to 64.
	CPUs int `yaml:"cpus"`
	// Data is the size of the data disk, 64MiB at least. The disk is sparse:
	// it takes the room of what is written to it.
	Data Size `yaml:"data"`
}

// Service mirrors spec.Service in the words of YAML; Spec converts it.
type Service struct {
	// Name is the service's, unique in the recipe.
	Name string `yaml:"name"`
	// User runs every command of the service: one of the recipe's users, or
	// root where it has to be.
	User string `yaml:"user"`
	// Capabilities are the parts of root's power that the service has, by the
	// kernel's names without CAP_, such as NET_BIND_SERVICE; none by default,
	// for root too.
	Capabilities []string `yaml:"capabilities,omitempty"`
	// Devices are files below /dev that the service's user may open, such as
	// /dev/net/tun. One that the machine does not have is left out.
	Devices []string `yaml:"devices,omitempty"`
	// Environment is added to the guest's own few variables.
	Environment map[string]string `yaml:"environment,omitempty"`
	// After names services that must be healthy before this one starts.
	After []string `yaml:"after,omitempty"`
	// Directories are made and given to the user before Setup.
	Directories []Directory `yaml:"directories,omitempty"`
	// Secrets are generated at the first start and kept on the data disk;
	// SOVEREIGN_SECRETS in the environment is the directory they are in.
	Secrets []Secret `yaml:"secrets,omitempty"`
	// Certificates are made at the first start and kept beside the secrets.
	Certificates []Certificate `yaml:"certificates,omitempty"`
	// Setup commands run in order before every start. They must be idempotent:
	// a power cut can come at any byte.
	Setup [][]string `yaml:"setup,omitempty"`
	// Command is the program and its arguments. It stays in the foreground.
	Command []string `yaml:"command"`
	// Reload is run after a secret of the service has changed.
	Reload []string `yaml:"reload,omitempty"`
	// Stop says how the service ends in order.
	Stop Stop `yaml:"stop,omitempty"`
	// Health says how the supervisor knows that the service works.
	Health Health `yaml:"health"`
	// Limits are that of pids by default.
	Limits Limits `yaml:"limits,omitempty"`
	// Ports are the TCP ports the service listens on.
	Ports []Port `yaml:"ports,omitempty"`
	// Optional, when true: the machine is ready without this service.
	Optional bool `yaml:"optional,omitempty"`
	// Backup is what the service has to say when its data disk is copied.
	Backup Backup `yaml:"backup,omitempty"`
}

// Backup are commands that are run, as the service's user, around a copy of the
// data disk; each may be left out. A copy is what a power cut at one instant had
// left, with all that was synced by then: most services need none of them.
type Backup struct {
	// Before is run just before the instant, for what is to be on the disk by
	// then: PostgreSQL's checkpoint, which makes a restored copy start sooner.
	Before []string `yaml:"before,omitempty"`
	// Marks prints what a copy is told by, at most 16 KiB: the same command has
	// to print the same in a machine that was restored from it.
	Marks []string `yaml:"marks,omitempty"`
	// Identity are paths below /data by which others know the service, such as
	// the keys of a node in a tailnet. A clone is a machine of its own: it begins
	// without them, and without the secrets of all services.
	Identity []string `yaml:"identity,omitempty"`
	// Check is run in a restored machine, and exits with 0 where all is there.
	Check []string `yaml:"check,omitempty"`
	// Log is the service's own log of changes, which is kept beside backups so
	// that any moment between two of them can be restored.
	Log BackupLog `yaml:"log,omitempty"`
}

// BackupLog says how a service gives its log of changes away.
type BackupLog struct {
	// Kind is postgresql: its protocol of physical replication.
	Kind string `yaml:"kind"`
	// Socket is the unix socket where it is spoken, absolute, below /run.
	// sovereign-init connects to it, as root; PostgreSQL is asked for the role
	// postgres.
	Socket string `yaml:"socket"`
}

// Directory is a directory a service needs at run time.
type Directory struct {
	// Path is absolute, below /data (kept) or /run or /tmp (gone at shutdown).
	Path string `yaml:"path"`
	// Mode is octal in quotes, "0755" by default.
	Mode string `yaml:"mode,omitempty"`
}

// Secret is generated in the guest, or handed over to it; the recipe only
// names it.
type Secret struct {
	// Name is the secret's, and its file's.
	Name string `yaml:"name"`
	// Bytes of entropy, 16 to 64, 24 by default; the value is their base64url
	// text.
	Bytes int `yaml:"bytes,omitempty"`
	// Given, when true: the owner hands the secret over to the running guest;
	// it is never generated, and the service starts without it.
	Given bool `yaml:"given,omitempty"`
}

// Certificate is a P-256 key and a certificate signed by itself for ten years,
// NAME.key and NAME.crt in the directory of the service's secrets.
type Certificate struct {
	// Name is the files', before .key and .crt.
	Name string `yaml:"name"`
	// Hosts are the DNS names and IP addresses it is for, beside the guest's
	// name.
	Hosts []string `yaml:"hosts,omitempty"`
}

// Stop says how a service ends in order.
type Stop struct {
	// Signal is TERM (the default), INT or QUIT.
	Signal string `yaml:"signal,omitempty"`
	// Timeout is how long the service has before it is killed: 1s to 10m, 30s
	// by default.
	Timeout Duration `yaml:"timeout,omitempty"`
}

// Health is a command that succeeds when the service does its work.
type Health struct {
	// Command exits 0 when the service does its work. A line on its standard
	// output is then shown as a warning.
	Command []string `yaml:"command"`
	// Starting are exit codes that mean "alive, but not ready yet" and never
	// lead to a restart.
	Starting []int `yaml:"starting,omitempty"`
	// Watch is a file that the service makes or writes when its state changes,
	// such as PostgreSQL's postmaster.pid: a change of it is checked at once.
	// Absolute, below /data, /run or /tmp; its directory exists when the
	// service starts.
	Watch string `yaml:"watch,omitempty"`
	// Interval between checks of a healthy service: 1s to 1h, 10s by default.
	Interval Duration `yaml:"interval,omitempty"`
	// Timeout of one check: 1s to 10m, 5s by default.
	Timeout Duration `yaml:"timeout,omitempty"`
	// Failures in a row after which the service is restarted: 1 to 1000, 3 by
	// default.
	Failures int `yaml:"failures,omitempty"`
}

// Limits of a service.
type Limits struct {
	// OpenFiles is RLIMIT_NOFILE.
	OpenFiles uint64 `yaml:"open_files,omitempty"`
	// Memory is the most the service's processes may take together.
	Memory Size `yaml:"memory,omitempty"`
	// PIDs is how many processes and threads the service's may be together: 1
	// to 32768, 512 by default.
	PIDs int `yaml:"pids,omitempty"`
	// OOMScoreAdj from -1000 to 1000; lower is killed later.
	OOMScoreAdj int `yaml:"oom_score_adj,omitempty"`
}

// Port is a TCP port the service listens on in the guest.
type Port struct {
	// Name is for people: "postgresql".
	Name string `yaml:"name"`
	// Port is from 1 to 65535, unique in the recipe.
	Port int `yaml:"port"`
	// URL is how a client reaches it: ${address} stands for host:port,
	// ${secret:NAME} for a secret of this service, ${certificate:NAME} for a
	// file of the client's with that certificate of this service.
	URL string `yaml:"url,omitempty"`
}

// Source is one entry of sources.yaml: where a named upstream source comes
// from. One of debian, git, npm and directory says how; a source with none of
// them is the file at url. Which version and which bytes is the lock's business.
type Source struct {
	Name string `yaml:"-"` // the entry's key
	// URL is upstream's, with ${version}, ${version:-} (dots as dashes) or
	// ${version:_} (dots as underscores). Beside debian it is asked first, and
	// left out where upstream publishes no file with the bytes Debian has.
	URL string `yaml:"url,omitempty"`
	// Mirrors are further places of the same file, asked after url in this
	// order, with the same placeholders.
	Mirrors []string `yaml:"mirrors,omitempty"`
	// Version is the one to lock: of a file at url, where nothing lists which
	// there are, or that of a directory.
	Version string `yaml:"version,omitempty"`
	// SHA256 is the sum that the file at url has to have, 64 hex digits, as
	// upstream publishes it. Without it the first bytes that come are locked.
	SHA256 string `yaml:"sha256,omitempty"`
	// List is a page that names the files at url of all versions, such as a
	// directory's listing: what version is chosen from, or held against.
	List string `yaml:"list,omitempty"`
	// Debian names the source package whose .orig tarball holds the bytes.
	Debian Debian `yaml:"debian,omitempty"`
	// Git is a repository; the source is the tree of a commit.
	Git Git `yaml:"git,omitempty"`
	// NPM has the source be the packages that a lock file of npm or pnpm
	// names.
	NPM NPM `yaml:"npm,omitempty"`
	// Directory is a directory relative to sources.yaml, the source itself.
	Directory string `yaml:"directory,omitempty"`
	// Series restricts what a re-lock may choose: "17" allows 17.12 and 17.13
	// but not 18.0.
	Series string `yaml:"series,omitempty"`

	// Dir is the directory of sources.yaml, which paths are relative to.
	Dir Ref `yaml:"-" json:"-"`
}

// Git says which commit of a repository is the source. One of tag, branch and
// commit is given.
type Git struct {
	// URL is the repository's, https or ssh.
	URL string `yaml:"url"`
	// Tag is how upstream names the tag of a version, with ${version} and the
	// like: "v${version}". The newest version of the series is locked.
	Tag string `yaml:"tag,omitempty"`
	// Branch is one whose newest commit is locked.
	Branch string `yaml:"branch,omitempty"`
	// Commit is the one to lock, its whole name.
	Commit string `yaml:"commit,omitempty"`
}

// NPM names the lock file of a JavaScript program's dependencies.
type NPM struct {
	// Lock is a package-lock.json of npm 7 or newer, or a pnpm-lock.yaml,
	// relative to sources.yaml.
	Lock string `yaml:"lock"`
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
	// NoArch, when true: what the port makes is the same for every
	// architecture, and is built once for all. What it is built with is for
	// every architecture too.
	NoArch bool `yaml:"noarch,omitempty"`
	// Go makes it a Go port: the step has the pinned Go toolchain and the
	// modules of the port's own go.mod and go.sum.
	Go *GoPort `yaml:"go,omitempty"`
	// Host packages of the toolchain image the step needs are not named: the
	// image is one.

	// Packages splits what the build script left in $OUT. A file goes to the
	// first package with a matching pattern; one that no pattern takes is an
	// error.
	Packages []PortPackage `yaml:"packages"`

	// Dir is the port's directory, and Path its port.yaml, for messages.
	Dir  Ref    `yaml:"-" json:"-"`
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
	// Owners gives files other owners than root: pattern to "uid:gid". A file
	// that two patterns with different owners take is an error.
	Owners map[string]string `yaml:"owners,omitempty"`
}
