// Package arch is the one table of architectures: what each is called by those
// who have a word for it, and the few numbers that files have for it.
//
// A name comes in and a row goes out. Whoever needs an architecture's name in
// other words reads it here, so that another architecture is a row of this
// table and the fragments of its kernel. The package knows nothing of the
// others.
package arch

import (
	"debug/elf"
	"slices"
	"strings"
)

// Arch is an architecture.
type Arch struct {
	// Go is Go's name, GOARCH, which recipes, bundles and the command line use.
	Go string
	// Debian is dpkg's name.
	Debian string
	// Apk is Alpine's name, and the first part of a compiler's target.
	Apk string
	// Target is clang's target triple for programs of the image.
	Target string
	// Uname are what uname -m says, the first one on Linux today, and what
	// others call it.
	Uname []string

	// Kernel is ARCH= of Linux's makefiles, and the directory in arch/.
	Kernel string
	// Config are the symbols that a whole .config for it has as y.
	Config []string
	// Image is the file that boots, as the kernel's makefile leaves it in
	// arch/KERNEL/boot.
	Image string

	// ELF is the machine in the header of a program.
	ELF elf.Machine
	// PE is the machine in the header of an EFI program (PE format, "Machine
	// Types").
	PE uint16
	// EFI is UEFI's name in that of the program on removable media,
	// EFI/BOOT/BOOTname.EFI (UEFI specification, 3.5.1.1).
	EFI string
	// RootType and VerityType are the partition types of the root and of its
	// dm-verity hashes (Discoverable Partitions Specification).
	RootType, VerityType string

	// QEMU is the program that emulates it, QEMUPackage the one of Debian that
	// has that, Board what QEMU calls the machine, and Console that machine's
	// serial port in Linux.
	QEMU, QEMUPackage, Board, Console string

	// Built says that this project's own recipes are built and tested for it.
	Built bool
}

var table = []Arch{
	{
		Go: "amd64", Debian: "amd64", Apk: "x86_64", Target: "x86_64-linux-musl", Uname: []string{"x86_64", "x86-64", "x64"},
		Kernel: "x86", Config: []string{"X86_64"}, Image: "bzImage",
		ELF: elf.EM_X86_64, PE: 0x8664, EFI: "X64",
		RootType: "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", VerityType: "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5",
		QEMU: "qemu-system-x86_64", QEMUPackage: "qemu-system-x86", Board: "q35", Console: "ttyS0",
		Built: true,
	},
	{
		Go: "arm64", Debian: "arm64", Apk: "aarch64", Target: "aarch64-linux-musl", Uname: []string{"aarch64", "armv8"},
		Kernel: "arm64", Config: []string{"ARM64"}, Image: "Image",
		ELF: elf.EM_AARCH64, PE: 0xaa64, EFI: "AA64",
		RootType: "b921b045-1df0-41c3-af44-4c6f280d3fae", VerityType: "df3300ce-d69f-4c92-978c-9bfb0f38d820",
		QEMU: "qemu-system-aarch64", QEMUPackage: "qemu-system-arm", Board: "virt", Console: "ttyAMA0",
		Built: true,
	},
	{
		Go: "riscv64", Debian: "riscv64", Apk: "riscv64", Target: "riscv64-linux-musl", Uname: []string{"riscv64", "rv64"},
		Kernel: "riscv", Config: []string{"RISCV", "64BIT"}, Image: "Image",
		ELF: elf.EM_RISCV, PE: 0x5064, EFI: "RISCV64",
		RootType: "72ec70a6-cf74-40e6-bd49-4bda08e8f224", VerityType: "b6ed5582-440b-4209-b8da-5ff7c419ea3d",
		QEMU: "qemu-system-riscv64", QEMUPackage: "qemu-system-misc", Board: "virt", Console: "ttyS0",
	},
}

// All are all architectures, in the order of the table.
func All() []Arch { return slices.Clone(table) }

// Names are Go's names of all architectures.
func Names() []string { return names(func(Arch) bool { return true }) }

// Built are Go's names of those that this project's own recipes are built for.
func Built() []string { return names(func(a Arch) bool { return a.Built }) }

func names(which func(Arch) bool) (out []string) {
	for _, a := range table {
		if which(a) {
			out = append(out, a.Go)
		}
	}
	return out
}

// Of finds an architecture by Go's name.
func Of(name string) (Arch, bool) { return find(func(a Arch) bool { return a.Go == name }) }

// OfApk finds one by Alpine's name.
func OfApk(name string) (Arch, bool) { return find(func(a Arch) bool { return a.Apk == name }) }

// OfUname finds one by what uname -m says, by Go's name, or by another word
// that is in use for it.
func OfUname(name string) (Arch, bool) {
	return find(func(a Arch) bool { return a.Go == name || slices.Contains(a.Uname, name) })
}

// OfPE finds one by the machine of an EFI program.
func OfPE(machine uint16) (Arch, bool) { return find(func(a Arch) bool { return a.PE == machine }) }

func find(is func(Arch) bool) (Arch, bool) {
	i := slices.IndexFunc(table, is)
	if i < 0 {
		return Arch{}, false
	}
	return table[i], true
}

// Choice is Go's names for a sentence: "amd64, arm64 or riscv64".
func Choice() string {
	all := Names()
	return strings.Join(all[:len(all)-1], ", ") + " or " + all[len(all)-1]
}
