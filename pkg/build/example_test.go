package build_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/sovereign-build/sovereign/pkg/build"
	"github.com/sovereign-build/sovereign/pkg/build/engine"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/erofs"
)

// The bundle of a recipe on the disk, with the lock saved as the build left it.
func Example() {
	ctx := context.Background()
	r, err := recipe.Load("recipes/sql")
	if err != nil {
		log.Fatal(err)
	}
	file, err := lock.Open("recipes/sql/sovereign.lock")
	if err != nil {
		log.Fatal(err)
	}
	b, err := build.New(r, file.Lock(), build.WithArch("arm64"))
	if err != nil {
		log.Fatal(err)
	}
	made, err := b.Bundle(ctx)
	// What was locked on the way is kept, whatever became of the build.
	err = errors.Join(err, file.Save(ctx, b.Lock()), b.Close())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(made.Bundle, made.Digest)
}

// What a build would do, without doing any of it.
func ExampleBuilder_Plan() {
	r, err := recipe.Parse(os.DirFS("recipes"), "sql/recipe.yaml")
	if err != nil {
		log.Fatal(err)
	}
	l, err := lock.Load("recipes/sql/sovereign.lock")
	if err != nil {
		log.Fatal(err)
	}
	b, err := build.New(r, l)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	plan, err := b.Plan(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	for _, step := range plan.Steps {
		if !step.Cached {
			fmt.Printf("%s: %s\n", step.Step, step.Reason)
		}
	}
}

// An image of a repository's packages, changed before it is written. Nothing is
// compiled, and so the recipe names no toolchain.
func ExampleBuilder_Root() {
	ctx := context.Background()
	r := &recipe.Recipe{
		Name: "tools", Architectures: []string{"amd64"},
		Dir: "/etc/apk/keys", Keys: []string{"example.rsa.pub"},
		Repositories: []string{"https://packages.example.org/main"},
		Packages:     []string{"busybox"},
	}
	b, err := build.New(r, &lock.Lock{SourceDate: 1767225600}, build.WithArch("amd64"))
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	tree, err := b.Root(ctx)
	if err != nil {
		log.Fatal(err)
	}
	if err := tree.Set(rootfs.Regular("etc/motd", 0o644, []byte("hello\n"))); err != nil {
		log.Fatal(err)
	}
	f, err := os.Create("tools.erofs")
	if err != nil {
		log.Fatal(err)
	}
	_, err = erofs.Write(ctx, f, tree, erofs.Options{Epoch: b.Lock().SourceDate})
	if err := errors.Join(err, f.Close()); err != nil {
		log.Fatal(err)
	}
}

// A switch over events; what is not of interest is left out.
func ExampleWithEvents() {
	build.WithEvents(func(e build.Event) {
		switch e := e.(type) {
		case build.StepMissed:
			fmt.Printf("%s has to run: %s\n", e.Step, e.Reason)
		case build.Fetching:
			fmt.Printf("%s: %d %%\n", e.Name, e.Percent())
		case build.StepLog:
			os.Stdout.Write(e.Data)
		case build.StepDone:
			fmt.Printf("%s took %s\n", e.Step, e.Took)
		}
	})
}

// Steps that run on a BuildKit elsewhere.
func ExampleWithEngineOptions() {
	build.WithEngineOptions(
		engine.WithAddress("tcp://builder.example.org:1234"),
		engine.WithTLS(engine.TLS{CA: "ca.pem", Cert: "me.pem", Key: "me.key"}),
	)
}
