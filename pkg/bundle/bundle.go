// Package bundle is what a build hands to the runtime: a directory of
// artifacts and a manifest that names each by digest.
//
// The manifest is all that pkg/runtime knows of a build, and this package all
// that the two share.
package bundle

// ManifestFile is the manifest's name in a bundle's directory.
const ManifestFile = "manifest.json"

// SumsFile lists the digest of every other file, in the format of sha256sum.
const SumsFile = "SHA256SUMS"

// Schema is the version of the manifest written and read here.
const Schema = 1

// Roles of artifacts.
const (
	RoleKernel       = "kernel"        // Image (arm64) or bzImage (amd64)
	RoleKernelConfig = "kernel-config" // the final .config
	RoleInitramfs    = "initramfs"     // cpio newc, not compressed
	RoleRoot         = "root"          // GPT disk: EROFS and its dm-verity tree
)

// Manifest describes a bundle.
type Manifest struct {
	Schema int    `json:"schema"`
	Name   string `json:"name"` // recipe name
	Arch   string `json:"arch"` // "amd64" or "arm64"
	// SourceDate is the SOURCE_DATE_EPOCH of the build, seconds since 1970.
	SourceDate int64 `json:"source_date"`
	Lock       Lock  `json:"lock"`
	// Release is nil for a bundle that anybody may replace.
	Release   *Release   `json:"release,omitempty"`
	Artifacts []Artifact `json:"artifacts"` // sorted by file
	Root      Root       `json:"root"`
	VM        VM         `json:"vm"`
	Services  []string   `json:"services"`
	Ports     []Port     `json:"ports"`
	Packages  []Package  `json:"packages"` // installed, sorted by name
}

// Lock says what pinned the inputs.
type Lock struct {
	Digest string `json:"digest"` // "sha256:…" of the lock file
	// Changed names inputs that were re-locked by the machine because their
	// pinned version had left every mirror. Empty for a build from the
	// lock its authors published.
	Changed []string `json:"changed,omitempty"`
	// Unpinned names what is in the image and in no lock, at most 10,000:
	// "package NAME-VERSION CHECKSUM" of a repository that was given for one
	// build, and files that were handed in.
	Unpinned []string `json:"unpinned,omitempty"`
}

// Release says who vouches for the bundle.
type Release struct {
	// Key is the public key, as package signature has it, that the bundle and
	// whatever follows it has to be signed by.
	Key string `json:"key"`
}

// Key is the public key that has to sign the bundle, "" for none.
func (m *Manifest) Key() string {
	if m.Release == nil {
		return ""
	}
	return m.Release.Key
}

// Artifact is one file of the bundle.
type Artifact struct {
	File   string `json:"file"` // base name
	Role   string `json:"role"`
	Digest string `json:"digest"` // "sha256:" and 64 hex digits
	Size   int64  `json:"size"`   // bytes
}

// Root says how to verify the root file system.
type Root struct {
	Serial string `json:"serial"` // virtio-blk serial of the root disk
	Hash   string `json:"hash"`   // dm-verity root hash, 64 hex digits (SHA-256)
}

// VM is what the machine needs, in no hypervisor's words.
type VM struct {
	MemoryMiB int `json:"memory_mib"`
	CPUs      int `json:"cpus"`
	// Cmdline is the kernel command line without console and network, which
	// are the hypervisor driver's to add.
	Cmdline string `json:"cmdline"`
	Data    Data   `json:"data"`
}

// Data is the state disk; the runtime makes it when absent, blank and sparse.
type Data struct {
	Serial string `json:"serial"`
	Size   int64  `json:"size"` // bytes
}

// Port is a TCP port a service listens on.
type Port struct {
	Name    string `json:"name"`    // "5432" is reached by Port; Name is for people: "postgresql"
	Service string `json:"service"` // name of the service
	Port    int    `json:"port"`
	// URL, when set, is how a client reaches it, with ${address} for host:port,
	// ${secret:NAME} for a secret of the service and ${certificate:NAME} for a
	// file of the client's with a certificate of the service.
	URL string `json:"url,omitempty"`
}

// Package is an installed apk.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}
