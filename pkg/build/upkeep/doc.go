// Package upkeep keeps a cache directory in order: Verify finds what is
// damaged in its content store, Collect removes what nothing names and nobody
// has used for a while, from the store and from beside it.
//
// A cache directory and an age come in, a report goes out. The package removes
// nothing that a build needs which is going on, and nothing that cannot be
// fetched or built again. The engine's own cache is bounded by the engine.
package upkeep
