// Package adb is a client of the adb server, the program on this computer that
// has the connections to phones: it lists them, tells when they come and go, and
// opens services of a phone's adbd as streams, of which a shell command with its
// exit code is one.
//
// A server that runs is used, whoever has started it, and never ended; where
// none does, the user's own adb is told to start one ("adb start-server"). The
// package speaks with the server at loopback, listens nowhere, and knows nothing
// of what runs on a phone.
//
// # The protocol
//
// A request is its length as four hex digits and its text; the server answers
// OKAY, or FAIL with a length and why. "host:…" are the server's own services.
// "host:transport:SERIAL" makes the connection one to that phone's adbd, and the
// next request is for a service of it: one service a connection. Of
// "shell,v2,raw:COMMAND" the stream is packets of one byte of kind and four of
// length (the lowest first); see packet.go. The sources are OVERVIEW.TXT,
// SERVICES.TXT and shell_protocol.h of platform/packages/modules/adb.
package adb
