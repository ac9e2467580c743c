// Package runtime is what a program imports to operate machines made from
// bundles.
//
// A Host is a conversation with sovereignd, the program that keeps the machines
// of a device: Local for those of this one, Over for those of any other, by any
// byte stream that leads there. It gives a Machine, with a method for each thing
// that is done to one. A bundle's directory goes in, and running services come
// out; what is on its way is told by events, and nothing is asked again and
// again.
//
// The other values are what is spoken of: what a machine does (Status), what is
// wanted of it (UpOptions, Policy, Wanted), how an update of it goes (Trial,
// Outcome) and what it tells on its way (Event). Their JSON is what scripts and
// other versions of this program rely on: fields are only ever added.
//
// Errors have a class and a hint (package fault), also those that come from
// elsewhere. Nothing of how a machine is kept is here: that is sovereignd's,
// which is the program of that name or package daemon within a program.
package runtime
