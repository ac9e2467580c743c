// Package licenses finds the texts of licences in what a bundle is made of, and
// writes the two files in which they go with it.
//
// Archives of sources come in ([InSource], [InGoModules], [InGoToolchain]) and
// the files go out that upstream wrote for those who pass its work on: LICENSE,
// COPYING, COPYRIGHT, NOTICE and PATENTS, by any of the endings that they have,
// and whatever lies in a directory LICENSES. Nothing is judged: which licence a
// text is, ports declare.
//
// # The files
//
// licenses.txt is for people, and to be passed on with an image: what it is made
// of, what each part declares, and every text once, in the bytes that upstream
// wrote. licenses.json is for programs: the same list, with the place in
// licenses.txt and the digest of each text. The second says all that the first
// does but for the texts, so that the first can be made anew of both and
// compared ([Read]).
package licenses
