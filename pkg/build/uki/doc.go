// Package uki makes unified kernel images: one EFI program that holds a
// kernel, its initramfs and its command line, for firmware to start by itself.
//
// An EFI stub and the parts come in; a PE file in the layout of the UAPI
// group's specification (uapi-group.org/specifications/specs/unified_kernel_image)
// goes out, the same bytes for the same input. Each part becomes a section of
// the stub's file, and the stub, started by the firmware, hands them to the
// kernel. The image is a rootfs.Content: it is put together while it is read.
//
// The package brings no stub and signs nothing. It never runs a program.
package uki
