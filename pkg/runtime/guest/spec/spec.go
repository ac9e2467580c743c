// Package spec is the guest spec: the one file, Path, through which a root
// image tells sovereign-init what to run. The build writes it, the guest reads
// it, and neither knows more of the other.
//
// It holds plain data and no secrets: a secret is named here, and its value
// is generated in the guest or handed over by the agent.
package spec

// Path is where the spec lies in the root image.
const Path = "/etc/sovereign/guest.json"

// Schema is the version of the format written and read here. A guest refuses
// a larger one.
const Schema = 1

// Spec is the whole file.
type Spec struct {
	Schema   int       `json:"schema"`
	Name     string    `json:"name"`     // recipe name, also the host name
	Data     Data      `json:"data"`     // where state lives
	Services []Service `json:"services"` // in the order of the recipe
}

// Data is the data disk. It is found by serial, never by letter.
type Data struct {
	Serial     string `json:"serial"`     // virtio-blk serial, at most 20 bytes
	FileSystem string `json:"filesystem"` // "ext4"
	Mount      string `json:"mount"`      // absolute path, "/data"
}

// Service is one program that is kept running.
type Service struct {
	Name string `json:"name"`
	User string `json:"user"` // name from the image's /etc/passwd
	// Capabilities are all that the service's processes may have, by the names
	// of Capability; root has no others either.
	Capabilities []string `json:"capabilities,omitempty"`
	// Devices are device files, as IsDevice has them, that User may open. One
	// that is not there is left out: the program knows what to do without.
	Devices     []string          `json:"devices,omitempty"`
	Environment map[string]string `json:"environment,omitempty"`
	// After names services that must be healthy before this one starts.
	After []string `json:"after,omitempty"`
	// Directories are made, owned and chmodded before Setup, on the data disk
	// or on a tmpfs.
	Directories []Directory `json:"directories,omitempty"`
	// Secrets are generated at the first start when absent, and kept 0600
	// under DATA/secrets/SERVICE/NAME, owned by the service's user.
	Secrets []Secret `json:"secrets,omitempty"`
	// Certificates are made at the first start when absent, and kept beside
	// the secrets.
	Certificates []Certificate `json:"certificates,omitempty"`
	// Setup commands run in order, as User, before every start. They must be
	// idempotent: a power cut can come at any byte.
	Setup   [][]string `json:"setup,omitempty"`
	Command []string   `json:"command"`
	// Reload, when set, is run as User after a secret of the service changed.
	Reload []string `json:"reload,omitempty"`
	Stop   Stop     `json:"stop"`
	Health Health   `json:"health"`
	Limits Limits   `json:"limits"`
	// Optional: the service's state neither holds up the guest's readiness
	// nor degrades it.
	Optional bool    `json:"optional,omitempty"`
	Backup   *Backup `json:"backup,omitempty"`
}

// Backup is what a service has to say when its data disk is copied. Each command
// is run as the service's user and may be absent.
type Backup struct {
	// Before is run just before the instant of a snapshot, for what is to be on
	// the disk by then. Where it fails the snapshot says so, and is taken.
	Before []string `json:"before,omitempty"`
	// Marks prints, in at most 16 KiB, what a copy is told by: the same command
	// has to print the same in a machine that was restored from it.
	Marks []string `json:"marks,omitempty"`
	// Identity are paths on the data disk by which others know the service: a
	// clone is a machine of its own, and begins without them and without secrets.
	Identity []string `json:"identity,omitempty"`
	// Check is run in a restored machine, and exits with 0 where all is there.
	Check []string `json:"check,omitempty"`
	// Log is where the service gives its log of changes away; nil: it has none.
	Log *Log `json:"log,omitempty"`
}

// Log is a service's log of changes.
type Log struct {
	// Kind is what is spoken there: LogPostgreSQL.
	Kind string `json:"kind"`
	// Socket is a unix socket below /run, to which sovereign-init connects.
	Socket string `json:"socket"`
}

// LogPostgreSQL is PostgreSQL's protocol of physical replication.
const LogPostgreSQL = "postgresql"

// Recovery is the directory where a service finds, in one of its own name, the
// log that it is to replay before it serves: of a machine that is restored to a
// moment. Elsewhere it is not there.
const Recovery = "/run/recovery"

// Directory is a directory the service needs.
type Directory struct {
	Path string `json:"path"`
	Mode string `json:"mode"` // octal, "0700"
}

// Secret is a value that only the running guest holds.
type Secret struct {
	Name string `json:"name"`
	// Bytes of entropy, 16 to 64; the value is their unpadded base64url text.
	// 0 for a given one.
	Bytes int `json:"bytes,omitempty"`
	// Given: handed over by the owner through the agent and never generated;
	// the service starts without it.
	Given bool `json:"given,omitempty"`
}

// Certificate is a P-256 key, DATA/secrets/SERVICE/NAME.key (0600), and a
// certificate signed by itself for ten years, NAME.crt, for Hosts and the
// guest's name.
type Certificate struct {
	Name  string   `json:"name"`
	Hosts []string `json:"hosts,omitempty"` // DNS names and IP addresses
}

// Stop says how a service ends in order.
type Stop struct {
	Signal string `json:"signal"` // "INT", "TERM", "QUIT"
	// Seconds until KILL, 1 to 600.
	Seconds int `json:"seconds"`
}

// Health is how init knows that a service does its work.
type Health struct {
	// Command is run as the service's user; its exit status is mapped by
	// Starting: those codes mean "alive, but not ready yet" and never lead to
	// a restart. 0 is healthy; a line on standard output then is a warning,
	// shown as the service's message, of at most 500 bytes.
	Command  []string `json:"command"`
	Starting []int    `json:"starting,omitempty"`
	// Watch is a file that the service makes or writes when its state
	// changes: a change of it is checked at once. Its directory exists before
	// the service starts.
	Watch string `json:"watch,omitempty"`
	// IntervalSeconds between checks once healthy, 1 to 3600. While starting,
	// checks come every few milliseconds at first and back off to this; with
	// Watch they begin after a second.
	IntervalSeconds int `json:"interval_seconds"`
	// TimeoutSeconds for one check, 1 to 600.
	TimeoutSeconds int `json:"timeout_seconds"`
	// Failures in a row after which the service is restarted, 1 to 1000.
	Failures int `json:"failures"`
}

// DefaultPIDs is how many processes and threads a service may have if it does
// not say: more than a server of threads or of processes for some hundred
// clients has, and too few to make others wait. MaxPIDs is the kernel's own
// limit for all of the machine (PID_MAX_DEFAULT).
const (
	DefaultPIDs = 512
	MaxPIDs     = 32768
)

// Limits of a service; zero means the kernel's default.
type Limits struct {
	OpenFiles uint64 `json:"open_files,omitempty"` // RLIMIT_NOFILE
	MemoryMiB uint64 `json:"memory_mib,omitempty"` // cgroup memory.max
	// PIDs are processes and threads (cgroup pids.max), up to MaxPIDs; zero
	// means DefaultPIDs.
	PIDs int `json:"pids,omitempty"`
	// OOMScoreAdj from -1000 to 1000; init itself is -1000.
	OOMScoreAdj int `json:"oom_score_adj,omitempty"`
}
