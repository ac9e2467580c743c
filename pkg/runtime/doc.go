// Package runtime is what a program imports to operate machines made from
// bundles.
//
// Here are the values that it speaks of: what a machine does (Status), what is
// wanted of it (UpOptions, Policy, Wanted), how an update of it goes (Trial,
// Outcome) and what it tells on its way (Event). Their JSON is what scripts and
// other versions of this program rely on: fields are only ever added.
//
// Nothing of how a machine is kept is here: that is sovereignd's.
package runtime
