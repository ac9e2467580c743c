// Package apk reads, writes, solves and installs packages in the format of
// Alpine's apk-tools 2, and the signed indexes of repositories of them.
//
// # The format
//
// A package is three gzip members in a row, whose contents read as one tar
// stream: a signature (".SIGN.RSA256.NAME.rsa.pub", over the next member), the
// control member (".PKGINFO" and install scripts) and the data. The control
// member holds the SHA-256 of the data member; each file in the data carries
// its own SHA-1. An index is a signature and a member with the text file
// APKINDEX, in which every package is pinned by the SHA-1 of its control
// member. So a good index pins a package to the last byte, and a package that
// comes from one needs no signature of its own.
//
// # What comes in and goes out
//
// Packages and repositories come in (a directory or an http(s) URL); a
// rootfs.Tree with apk's own database goes out. Everything is verified before
// it is used: a wrong signature, checksum or key is an error of class
// fault.Verification that names the package and the file. The package never
// runs an install script, never installs what it could not verify, and reads
// from a network only where the caller gave a URL.
//
// # Choosing
//
// Solve follows what apk-package(5), apk-repositories(5) and apk-world(5) say
// of versions, provides, provider_priority, install_if, conflicts and tagged
// repositories. compat/apko holds it against those rules and another solver
// over a thousand worlds of Alpine's real indexes.
//
// # Scripts
//
// Scripts lists what packages would run. Install refuses each, with its text
// and digest, unless an Action is declared for that very text: a list of steps
// such as AddUser, MakeDir or Applets, or none. The scripts stay in the
// database, where apk in the guest finds them.
package apk
