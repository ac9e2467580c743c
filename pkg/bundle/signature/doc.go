// Package signature says who vouches for a bundle.
//
// A bundle's manifest and a secret key come in, and the text of a signature
// goes out; or a manifest, a signature and what is known of its key come in,
// and what was signed goes out. The package reads no file and asks nobody.
//
// # The signature
//
// It is minisign's, of the manifest's bytes, and stands beside the manifest as
// manifest.json.minisig: minisign -Vm manifest.json checks it without this
// program. Its trusted comment, which minisign signs as well, is the
// [Statement]: one line of name=value in one order, with the bundle's name,
// architecture, version, index and key, the manifest's digest, and the digests
// of the files that describe the bundle. A line that is not the one that its
// values are written as is refused.
//
// # The index
//
// It only grows. What has accepted a bundle once remembers the highest index it
// has seen (see [Trust]) and refuses what is older, so that whoever can replay
// a signed bundle with known holes cannot bring it back.
//
// # Another key
//
// A key is followed by another with a [Rotation], which the old one signs: the
// new key, and the index from which on the new one signs alone. Rotations stand
// behind the signature in the same file, four lines each, the oldest first.
// Whoever trusts any key of the row trusts its end. What has followed a
// rotation remembers that too: what the old key signs from then on, another
// rotation most of all, counts no more.
package signature
