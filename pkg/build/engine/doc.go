// Package engine runs compile steps in BuildKit.
//
// A [Step] comes in: a base image, a script, input files and the name of an
// output directory. The directory goes out as a tar stream, and the step's log
// as a file. Steps see no network, no file of this machine but their inputs
// and no environment but the one they are given, so equal steps have equal
// outputs and BuildKit may answer from its cache.
//
// # Private and remote engines
//
// By default the engine is private: a buildkitd started as a child, on a unix
// socket in the state directory, when the first step needs it. All processes
// of a user that name the same state directory share one daemon; the last to
// finish stops it (daemon.go says how that is kept right through crashes).
// With [WithAddress] the very same steps go to any BuildKit elsewhere; the base
// image and the inputs travel over the client's session, each blob once.
//
// # Errors
//
// A script that fails is a [*StepError], class fault.Step. An engine that
// cannot be started, reached or that dies during a step is fault.Environment:
// the step is not to blame and the next Run starts or dials again. What was
// written to the tar stream before an error is worthless and to be thrown
// away.
//
// The package never interprets what steps make, never decides whether a step
// is needed (the caller's action cache does) and never writes outside the
// state and log directories.
package engine
