// Package kconfig reads the Kconfig files of a Linux source tree and computes
// what the kernel's own tool (scripts/kconfig/conf) makes of a configuration.
//
// A source tree, an architecture and the values that were asked for come in;
// the final value of every symbol, the text of the .config and explanations go
// out. The package runs no commands by itself, writes no files and never looks
// at the machine it is on: what a Kconfig file asks of the compiler with
// $(shell) goes to a function of the caller's, for which Toolchain has answers.
//
// The language and its semantics are those of Linux 5.10 to 7.0, and of each
// version its own: tristate and optional choices up to 6.9, transitional symbols
// from 6.18 on, "depends on A if B" from 7.0 on. The version is that of the
// source's makefile. Documentation/kbuild/kconfig-language.rst describes the
// language.
//
// # Values
//
// A symbol is visible when one of its prompts is, and only then does a value
// that was asked for count, up to the visibility: a driver whose bus is a
// module can be a module at most. Without such a value the first default whose
// condition holds counts, then what implies it. Last comes what selects the
// symbol, which raises the value whatever the symbol depends on.
package kconfig
