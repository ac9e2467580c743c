// Package toolchain makes the image that compile steps run in.
//
// Locked Debian packages come in from the content store and an OCI image in an
// OCI layout directory goes out: one layer, the same bytes for the same lock
// and date whenever and wherever it is made. mmdebstrap unpacks and configures
// the packages from a local repository made of exactly them, so apt can choose
// nothing else and nothing is fetched.
//
// The package also reads image.yaml, where people write which packages of
// which suite the image has. It never resolves versions (package source does,
// into the lock), never uses the network and never changes the store.
package toolchain
