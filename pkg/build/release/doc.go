// Package release puts bundles together as something that is given to others.
//
// Bundles that were built and signed come in, and a directory goes out: the
// bundles, disks of them, the packages as a repository, notes, and release.json,
// which names every file of it by digest and is signed with the key that signs
// the bundles. The same bundles give the same release.json but for what the
// signatures are.
//
// Push writes the bundles as one OCI index, so that each architecture pulls its
// own by one name. The package builds nothing.
package release
