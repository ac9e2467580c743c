// Package sbom lists what is in a bundle: a software bill of materials.
//
// The directory of a bundle with its provenance comes in, and SPDX 2.3 or
// CycloneDX 1.6, both as JSON, go out. What is listed is what the image holds:
// the packages of the database in its root file system, the Go modules that its
// programs say they were compiled from, the kernel with its patches and the
// .config it was compiled with. The provenance only says where each came from.
//
// The same bundle gives the same bytes: nothing here knows the time, this
// machine, or chance. The package fetches nothing.
package sbom
