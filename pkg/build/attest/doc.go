// Package attest says how a bundle was made, and signs a bundle with what
// describes it.
//
// What a build knows comes in (its recipe, its lock, what it made) and an
// in-toto statement with a SLSA v1 predicate goes out, the same bytes for the
// same build; or the files of a bundle come in, and are found to agree or not.
// Nothing here builds, fetches or asks anybody.
//
// # The provenance
//
// provenance.json names the bundle's files by digest, what the recipe asked for,
// and every pin of the lock as a material: sources, toolchain packages, the Go
// toolchain, packages of repositories, and the patches and fragments of the
// kernel. The lock itself is in it as a whole, so that whoever has the recipe
// can build the bundle again. It holds no time and no name of a machine: two
// builds of the same inputs have the same.
//
// provenance.dsse.json is the same bytes in a DSSE envelope, signed with the
// key that signs the bundle, for programs that read that.
package attest
