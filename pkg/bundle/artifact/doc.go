// Package artifact keeps a bundle in an OCI registry: as one artifact, by tag
// or digest.
//
// A bundle's directory comes in, and a reference by digest goes out; or the
// other way round. Each file of the bundle is one blob under its own name, so
// that other clients (oras, crane) find them too, and files that two bundles
// share are stored and sent once. The manifest of the artifact is the same for
// the same bundle, whoever pushes it and when.
//
// What is pulled is verified as a bundle is verified anywhere else: the
// artifact's digest names the manifest's, and the manifest's names every
// file's. A bundle is put in its place whole or not at all.
//
// The package never reads or writes a file the bundle's manifest does not
// name.
package artifact
