// Package runtime operates bundles as virtual machines: it starts, watches,
// reaches, stops and removes them.
//
// A bundle's directory comes in (its manifest is all the runtime knows of a
// build) and a running Instance goes out. It never builds, never writes into a
// bundle, and never prints: progress goes to a callback.
//
// # Instances
//
// An instance is a directory of mode 0700 under the state directory,
// instances/NAME:
//
//	instance.json   bundle, ports, process: what this package knows
//	manifest.json   a copy of the bundle's, as it was at the start
//	data.img        the data disk: sparse, made blank once, then never replaced
//	console.log     what the guest printed since its start (.1: the boot before)
//	console.sock    the same as it comes, and the way to type into it
//	machine.log     what the hypervisor printed (.1 likewise)
//	agent.sock      the way to the guest's agent
//	qmp.sock        the way to QEMU
//
// A machine goes on when the program that started it ends. It is found again
// by its process's number, start time and boot, or, when its starter was
// killed before it could write them down, by who listens on its control
// socket; never by a pattern. A lock file per instance keeps two commands from
// changing it at once.
//
// # Parts
//
// The words that drivers share are in package vm; package local is this
// machine as a vm.Device, package qemu the one vm.Hypervisor so far.
package runtime
