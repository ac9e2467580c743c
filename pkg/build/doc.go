// Package build makes bundles: of a recipe, which says what a machine is, and a
// lock, which says of which bytes, come a kernel, packages, a root file system
// and the bundle of all that.
//
//	r, err := recipe.Load("recipes/sql")              // or recipe.Parse(fsys, name), or &recipe.Recipe{…}
//	l, err := lock.Load("recipes/sql/sovereign.lock") // or lock.Parse(name, text)
//	b, err := build.New(r, l)
//	defer b.Close()
//	made, err := b.Bundle(ctx)
//
// # Phases
//
// A [Builder] goes as far as it is asked: [Builder.Kernel],
// [Builder.Packages] (what ports make), [Builder.Root] (a tree, to be changed
// and written as any image) and [Builder.Bundle]. [Builder.Plan] says what
// Bundle would do, and has no effects. A recipe made in Go says only what is
// wanted of it: one for Kernel names no packages, and one of a repository's
// packages names no toolchain.
//
// Compile steps go to an [Engine], by default a BuildKit daemon of the user's
// own that is started with the first step that is not in the cache; package
// engine reaches others. A program with nothing to compile starts none.
//
// # Cache
//
// Inputs and results are in a content store (package store) in the cache
// directory, which Builders of any number of processes share. A step's key is
// of everything that it depends on: sources, scripts, toolchain, packages, and
// the code here that writes packages and images. The same key is the same step
// on every machine. When the key is new, [StepMissed] says what is new in it.
//
// # Locks
//
// A Builder changes its lock when packages of the recipe's repositories are not
// locked yet, or, where the options say so, when an input has left every
// mirror. The changed lock is [Builder.Lock], also after an error, and the
// caller's to save: with [lock.File.Save], which takes in what others have
// changed in the file meanwhile. [WithFrozenLock] forbids it.
//
// # Errors
//
// Errors have a class of package fault: Usage for the recipe, the lock and the
// options, Source for an input no mirror gave, Step for a failed compile step
// (an *engine.StepError with the end of its log), Verification for a digest, a
// signature or a lost kernel symbol, Differ for outputs that are not the
// recipe's sums, Environment for what this machine lacks. After an error, what
// was finished is kept, and the same call goes on from there.
package build
