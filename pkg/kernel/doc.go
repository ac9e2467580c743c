// Package kernel treats a Linux kernel configuration as a value: it reads
// .config files and fragments, merges fragments, compares what was asked with
// what Kconfig made of it, checks requirement sets and compares two
// configurations. It also holds the scripts of the kernel's build steps.
//
// With the kernel's source at hand it computes what Kconfig would make of
// fragments and explains what gets lost: see Explain, and package kconfig for
// the Kconfig language.
//
// Text comes in; values, findings and text go out. The package runs nothing
// and writes no files: it has no opinion of where a kernel is built.
//
// # Fragments
//
// A fragment is a .config with the reasons in it. The comment above a symbol,
// or above a group of symbols without a blank line between them, is the reason
// for each of them. The first comment of a file, when a blank line follows it,
// is the file's topic.
//
//	# Disks of the guest.
//
//	# The root disk is a virtio device.
//	CONFIG_BLK_DEV=y
//	CONFIG_VIRTIO_BLK=y
//
// # Asked and got
//
// Kconfig drops a symbol without a word when something it depends on is
// missing, and clamps a number that is out of range. Verify finds that:
//
//   - n, "is not set" and absent are the same value.
//   - y is met by y only.
//   - m is met by m or y: a fragment that asks for a module wants the driver,
//     and a kernel without CONFIG_MODULES builds it in.
//   - A number is met by an equal number, a string by the same string.
package kernel
