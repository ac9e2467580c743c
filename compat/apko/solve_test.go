package apko

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	apko "chainguard.dev/apko/pkg/apk/apk"

	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// worlds are solved by both for each of two sets of repositories.
const worlds = 500

// TestSolveLikeApko solves worlds drawn from real indexes with both solvers.
// Where they do not agree apko's answer has to break one of apk's documented
// rules, and ours never breaks any.
func TestSolveLikeApko(t *testing.T) {
	new317, their317 := alpine(t, "alpine-317")
	// 3.16's index is that of another architecture: relabelled, the two are
	// an old and a new version of some 5,000 packages.
	old316, their316 := alpine(t, "alpine-316")
	for i := range old316.Packages {
		relabel(&old316.Packages[i].Arch, old316.Packages[i].Depends, old316.Packages[i].Provides)
	}
	old316.Arch = "aarch64"
	for _, p := range their316.Packages() {
		relabel(&p.Arch, p.Dependencies, p.Provides)
	}
	for _, c := range []struct {
		name   string
		ours   []apk.Repository
		theirs []apko.NamedIndex
	}{
		{"one repository", []apk.Repository{new317}, []apko.NamedIndex{their317}},
		{"two releases", []apk.Repository{old316, new317}, []apko.NamedIndex{their316, their317}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(3, uint64(len(c.ours))))
			j := newJudge(c.ours)
			count := map[string]int{}
			for range worlds {
				world := randomWorld(r, c.ours)
				ours, ourErr := j.solver.Solve(t.Context(), world)
				theirs, _, theirErr := apko.NewPkgResolver(t.Context(), c.theirs).GetPackagesWithDependencies(t.Context(), world, map[string][]apko.NamedIndex{"aarch64": c.theirs})
				var a, b []string
				for _, s := range ours {
					a = append(a, s.Meta.ID())
				}
				for _, p := range theirs {
					b = append(b, p.Name+"-"+p.Version)
				}
				slices.Sort(a)
				slices.Sort(b)
				if ourErr == nil {
					for rule, example := range j.rules(t.Context(), world, a) {
						t.Errorf("%v: ours: %s: %s", world, rule, example)
					}
				}
				switch {
				case ourErr != nil && theirErr != nil:
					count["both refuse"]++
				case theirErr != nil:
					count["apko finds nothing where there is a solution"]++
				case slices.Equal(a, b):
					count["the same packages"]++
				default:
					wrong := j.rules(t.Context(), world, b)
					if len(wrong) == 0 {
						t.Errorf("%v: ours %v (%v), apko's %v, and both keep the rules", world, minus(a, b), ourErr, minus(b, a))
					}
					for rule := range wrong {
						count["apko: "+rule]++
					}
					count["apko breaks a rule"]++
				}
			}
			for _, what := range slices.Sorted(maps.Keys(count)) {
				t.Logf("%4d %s", count[what], what)
			}
			if agreed := count["the same packages"] + count["both refuse"]; agreed < worlds/2 {
				t.Errorf("only %d of %d worlds agree", agreed, worlds)
			}
		})
	}
}

func relabel(arch *string, lists ...[]string) {
	*arch = strings.Replace(*arch, "x86_64", "aarch64", 1)
	for _, words := range lists {
		for i, w := range words {
			words[i] = strings.ReplaceAll(w, "musl-x86_64", "musl-aarch64")
		}
	}
}

// minus is what a has and b has not.
func minus(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// randomWorld is one to eight packages, half of them with a constraint.
func randomWorld(r *rand.Rand, repos []apk.Repository) []string {
	var world, names []string
	for range 1 + r.IntN(8) {
		repo := repos[r.IntN(len(repos))]
		m := repo.Packages[r.IntN(len(repo.Packages))]
		if slices.Contains(names, m.Name) {
			continue
		}
		names = append(names, m.Name)
		short, _, _ := strings.Cut(m.Version, "-r")
		constraint := ""
		if r.IntN(2) == 0 {
			constraint = []string{"=" + m.Version, ">=" + m.Version, "~" + short, "<=" + m.Version, ">0"}[r.IntN(5)]
		}
		world = append(world, fmt.Sprint(m.Name, constraint))
	}
	return world
}
