// Package control is how a program talks to sovereignd: HTTP/1.1 over yamux
// over any byte stream, be it a unix socket, ssh's standard input and output,
// or a phone's shell. docs/protocol.md has the endpoints.
//
// A connection comes in; an http.Handler is served on it, or a Session makes
// requests. Here is what any endpoint needs: the greeting, errors that keep
// their class and hint, streams of events, raw streams, blobs by digest, and
// the limits of all that. The package knows nothing of machines, listens
// nowhere, and trusts its peer with nothing: who may connect is for the
// transport to say.
//
// # The greeting
//
// Both sides begin with one line, without waiting for each other's:
//
//	SOVEREIGN-CONTROL {"min":1,"max":1,"version":"v0.3.0","can":["blobs"]}
//
// min and max are the versions of the protocol that the side speaks; the newest
// that both do is spoken, and where there is none, both know which of them is
// too old. can has the names of what was added within a version. What a program
// sends to say less than everything is never guessed: an answer may have fields
// that its reader does not know, a request may not, since leaving one out is
// doing something else.
//
// Whoever asks passes over what comes before the line: a login shell may greet
// first. Behind the line is yamux, the one who asks as its client.
//
// No message has a time of day in it that the other side acts on: a limit is a
// duration, and the clocks of both sides may be years apart.
package control
