// Package audit proves the 22 items of the field guide (docs/field-guide.md) by
// looking: the traps of a server in a virtual machine on somebody's own device.
//
// Facts come in and a Report goes out, a row for each item. Facts are what
// probes saw of a bundle (package audit/image) or of a running machine (package
// audit/live), or why they saw nothing; the package itself looks at nothing,
// so that each rule can be shown a world in which its item is broken.
//
// A row is proven by what was seen and by nothing else. What nobody could look
// at is NotProven, with the reason, and is no pass.
package audit
