// Package registry speaks to OCI registries.
//
// References and things to push come in; descriptors and verified bytes go
// out. It is go-containerregistry with this project's rules on top: a
// reference names its registry, plain http goes to loopback addresses only,
// whatever a redirect says, every blob is held against its digest and size,
// and errors have a class of package fault.
//
// Credentials are those of docker, podman and their credential helpers
// (authn.DefaultKeychain). The package never stores or prints one, and never
// puts what a registry sends anywhere but into the caller's writer.
package registry
