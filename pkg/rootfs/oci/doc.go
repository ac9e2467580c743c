// Package oci brings OCI images into file trees, and file trees into OCI
// images.
//
// In: an image from a registry, a layout directory or a tar archive (an OCI
// layout's or docker save's) is opened for one platform, and its layers are
// applied one over the other into a rootfs.Tree, contents into a spool. Every
// blob is held against its digest and every layer against its diff ID; limits
// bound layers, entries and bytes.
//
// Out: trees become the layers of an image that is the same for the same
// content, whatever the order of insertion, machine or time; images become a
// multi-architecture index; both go to a layout directory, a tar archive or a
// registry.
//
// How layers are applied follows containerd, whose rules are what images are
// tested against: symbolic links in the parents of a name are followed inside
// the image, a link in the last place is replaced, a directory over a
// directory keeps what it holds, a hard link's header gives its attributes to
// the file. Where the image specification is stricter, it wins: a whiteout
// hides only what lower layers have, whatever its place in its own layer, and
// a directory's entry replaces all attributes of a lower one. The entry of the
// root directory counts, and a name with ".." in it is refused.
//
// The package never runs anything, never writes a file of an image to the
// host's file system, and touches a network only for a registry reference.
package oci
