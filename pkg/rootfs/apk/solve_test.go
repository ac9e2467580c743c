package apk

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// packages reads "name version depend… | provides… | install_if…" lines.
func packages(t testing.TB, location, text string) Repository {
	t.Helper()
	r := Repository{Location: location}
	for line := range strings.Lines(text) {
		parts := strings.Split(strings.TrimSpace(line)+"||", "|")
		f := strings.Fields(parts[0])
		if len(f) == 0 {
			continue
		}
		m := Meta{Name: f[0], Version: f[1], Arch: "x86_64", Depends: f[2:], Provides: strings.Fields(parts[1]), InstallIf: strings.Fields(parts[2])}
		for i, p := range m.Provides {
			if n, ok := strings.CutPrefix(p, "priority:"); ok {
				fmt.Sscan(n, &m.ProviderPriority)
				m.Provides = slices.Delete(m.Provides, i, i+1)
				break
			}
		}
		r.Packages = append(r.Packages, m)
	}
	return r
}

func TestSolve(t *testing.T) {
	base := `
		musl 1.2.5-r0 | so:libc.musl-x86_64.so.1=1
		zlib 1.3.1-r0 so:libc.musl-x86_64.so.1 | so:libz.so.1=1.3.1
		icu-libs 76.1-r0 so:libc.musl-x86_64.so.1 icu-data | so:libicuuc.so.76=76.1
		icu-data-en 76.1-r0 | icu-data
		icu-data-full 76.1-r0 !icu-data-en | icu-data
		postgresql17 17.12-r0 so:libicuuc.so.76 so:libz.so.1 /bin/sh tzdata
		postgresql17 17.4-r0 so:libz.so.1
		busybox 1.37.0-r0 so:libc.musl-x86_64.so.1
		busybox-binsh 1.37.0-r0 busybox=1.37.0-r0 | /bin/sh cmd:sh=1.37.0-r0 priority:100
		dash 0.5-r0 | /bin/sh cmd:sh=0.5-r0 priority:60
		tzdata 2025b-r0
		pg-docs 1-r0 | | docs postgresql17
		docs 1-r0
		old 1-r0 postgresql17<17.5
		loop-a 1-r0 loop-b
		loop-b 1-r0 loop-a
		refuses 1-r0 !tzdata
		rsh 1-r0 cmd:sh
		best 1-r0 either
		x1 2-r0 deep | either
		x2 1-r0 | either
		two 1-r0 x1 best
		bad 1-r0 missing
		tolerant 1-r0 virt>=1
		v1 3-r0 missing | virt=3
		v2 2-r0 | virt=2
	`
	ctx := context.Background()
	for _, c := range []struct{ world, want, err string }{
		{"zlib", "musl zlib", ""},
		{"postgresql17 icu-data-full", "musl icu-data-full icu-libs zlib busybox busybox-binsh tzdata postgresql17", ""},
		{"postgresql17<17.5", "musl zlib postgresql17=17.4-r0", ""},
		{"old", "musl zlib postgresql17=17.4-r0 old", ""},
		{"postgresql17 old icu-data-full", "musl zlib postgresql17=17.4-r0 old icu-data-full", ""},
		{"loop-a", "loop-b loop-a", ""},
		{"rsh", "musl busybox busybox-binsh rsh", ""},
		{"rsh dash", "dash rsh", ""},
		{"docs old", "docs musl zlib postgresql17=17.4-r0 old pg-docs", ""},
		{"tolerant", "v2 tolerant", ""},
		{"zlib~1.3", "musl zlib", ""},
		{"", "", ""},
		{"icu-libs", "", "icu-data-en and icu-data-full"},
		{"icu-libs icu-data-en icu-data-full", "", "!icu-data-en"},
		{"postgresql17>=18", "", "17.12-r0"},
		{"postgres", "", "postgresql17"},
		{"bad", "", "missing, wanted by bad-1-r0 < world"},
		{"refuses tzdata", "", "refuses-1-r0"},
		{"tzdata !tzdata", "", "tzdata-2025b-r0"},
		{"dash busybox-binsh", "", "cmd:sh"},
		{"best", "", "x1 and x2"},
		{"two", "", "deep, wanted by x1-2-r0"},
		{"no@tag", "", "no repository has the tag @tag"},
	} {
		got, err := Solve(ctx, strings.Fields(c.world), []Repository{packages(t, "ports", base)})
		if c.err != "" {
			if fault.ClassOf(err) != fault.Usage || !strings.Contains(fmt.Sprint(err), c.err) {
				t.Errorf("%s: got %v, want an error with %q", c.world, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.world, err)
			continue
		}
		if g := show(got); g != strings.ReplaceAll(c.want, "", "") {
			t.Errorf("%s: got %s, want %s", c.world, g, c.want)
		}
	}
}

// show names packages, with the version where it is not the newest.
func show(s []Selected) string {
	var out []string
	for _, p := range s {
		name := p.Meta.Name
		if p.Meta.Version == "17.4-r0" {
			name += "=17.4-r0"
		}
		out = append(out, name)
	}
	return strings.Join(out, " ")
}

func TestSolvePrefersVersionThenRepository(t *testing.T) {
	first := packages(t, "ports", "a 1-r0\nb 1-r0\nc 2-r0")
	second := packages(t, "mirror", "a 1-r0\nb 2-r0\nc 1-r0")
	got, err := Solve(context.Background(), []string{"a", "b", "c"}, []Repository{first, second})
	if err != nil {
		t.Fatal(err)
	}
	var from []string
	for _, s := range got {
		from = append(from, s.Repository+":"+s.Meta.ID())
	}
	if want := []string{"ports:a-1-r0", "mirror:b-2-r0", "ports:c-2-r0"}; !slices.Equal(from, want) {
		t.Errorf("got %v, want %v", from, want)
	}
}

func TestSolvePinned(t *testing.T) {
	stable := packages(t, "stable", `
		app 1-r0 lib
		lib 1-r0
		tool 1-r0
		plug 1-r0 | plugin
	`)
	edge := packages(t, "edge", `
		app 2-r0 lib>=2 extra
		lib 2-r0
		tool 2-r0
		extra 1-r0
		only 1-r0 lib
		app-doc 2-r0 | | docs app=2-r0
		plug 9-r0 | plugin
	`)
	edge.Tag = "edge"
	testing := packages(t, "testing", "app 3-r0\ndocs 1-r0")
	testing.Tag = "testing"
	docs := packages(t, "docs", "docs 1-r0")
	for _, c := range []struct{ world, want, err string }{
		{"app", "stable:lib-1-r0 stable:app-1-r0", ""},
		{"app@edge", "edge:lib-2-r0 edge:extra-1-r0 edge:app-2-r0", ""},
		{"only@edge", "stable:lib-1-r0 edge:only-1-r0", ""},
		{"app@testing", "testing:app-3-r0", ""},
		{"tool app@edge", "stable:tool-1-r0 edge:lib-2-r0 edge:extra-1-r0 edge:app-2-r0", ""},
		{"docs app@edge", "docs:docs-1-r0 edge:lib-2-r0 edge:extra-1-r0 edge:app-2-r0 edge:app-doc-2-r0", ""},
		{"docs app", "docs:docs-1-r0 stable:lib-1-r0 stable:app-1-r0", ""},
		{"lib@edge app", "edge:lib-2-r0 stable:app-1-r0", ""},
		{"app>=2", "", "app-2-r0 in edge is for those only who ask for @edge"},
		{"app>=2@edge", "edge:lib-2-r0 edge:extra-1-r0 edge:app-2-r0", ""},
		{"plugin", "stable:plug-1-r0", ""},
		{"app@nowhere", "", "no repository has the tag @nowhere"},
	} {
		got, err := Solve(context.Background(), strings.Fields(c.world), []Repository{stable, edge, testing, docs})
		if c.err != "" {
			if fault.ClassOf(err) != fault.Usage || !strings.Contains(fmt.Sprint(err), c.err) {
				t.Errorf("%s: got %v, want an error with %q", c.world, err, c.err)
			}
			continue
		}
		var from []string
		for _, s := range got {
			from = append(from, s.Repository+":"+s.Meta.ID())
		}
		if err != nil || strings.Join(from, " ") != c.want {
			t.Errorf("%s: got %v, %v, want %s", c.world, from, err, c.want)
		}
	}
}

func TestSolvePreferences(t *testing.T) {
	repo := packages(t, "ports", `
		virtual-a 1-r0 | shell priority:10
		virtual-b 1-r0 | shell priority:20
		versioned-a 1-r0 | cmd:x=1 priority:90
		versioned-b 1-r0 | cmd:x=2 priority:1
		real 1-r0
		fake 1-r0 | real=2
		owner 1-r0 | thing=1
		guest 1-r0 | thing
		friend 1-r0 | shell
		rebel 1-r0 thing=1 guest
		noted 1~ab12-r0
		noted 1~ab13-r0
	`)
	odd := packages(t, "odd", `
		broken 1-r0 a>>b
		pkgconf 1-r0 | pc:librtmp=v2.4
		user 1-r0 pc:librtmp
	`)
	for i := range repo.Packages {
		repo.Packages[i].Checksum = checksumString([]byte(fmt.Sprintf("%020d", i)))
	}
	foreign := Repository{Location: "foreign", Arch: "aarch64", Packages: []Meta{{Name: "alien", Version: "1", Arch: "x86_64"}, {Name: "text", Version: "1", Arch: "noarch"}}}
	for _, c := range []struct{ world, want, err string }{
		{"shell", "virtual-b", ""},
		{"shell virtual-a", "virtual-a", ""},
		{"shell friend", "friend", ""},
		{"cmd:x", "versioned-b", ""},
		{"cmd:x<2", "versioned-a", ""},
		{"real", "fake", ""},
		{"real<2", "real", ""},
		{"virtual-a virtual-b", "virtual-a virtual-b", ""},
		{"owner guest", "", "provides thing, and so does"},
		{"rebel", "", "thing"},
		{"noted", "noted", ""},
		{"noted~1~ab12", "noted", ""},
		{"user", "pkgconf user", ""},
		{"broken", "", "broken-1-r0 in odd cannot be used"},
		{"alien", "", "it is for x86_64, not aarch64"},
		{"text", "text", ""},
		{"real><" + repo.Packages[4].Checksum, "real", ""},
		{"real><" + repo.Packages[0].Checksum, "", "real"},
	} {
		got, err := Solve(context.Background(), strings.Fields(c.world), []Repository{repo, odd, foreign})
		if c.err != "" {
			if fault.ClassOf(err) != fault.Usage || !strings.Contains(fmt.Sprint(err), c.err) {
				t.Errorf("%s: got %v, %v, want an error with %q", c.world, show(got), err, c.err)
			}
			continue
		}
		if err != nil || show(got) != c.want {
			t.Errorf("%s: got %v, %v, want %s", c.world, show(got), err, c.want)
		}
	}
}

// What install_if asks for goes before choices that are open: the right values
// are apk-tools 3's, except where it gives up.
func TestSolveInstallIf(t *testing.T) {
	for _, c := range []struct{ name, index, world, want string }{
		{"an open choice of a provider", `
			base 1 polkit
			openrc 1
			base-openrc 1 elogind | | base=1 openrc
			polkit 1
			elogind 1 | polkit=1
		`, "base openrc", "elogind base openrc base-openrc"},
		{"of one with a higher priority", `
			base 1 shell
			openrc 1
			base-openrc 1 zsh | | base=1 openrc
			bash 1 | shell priority:10
			zsh 1 !bash | shell priority:5
		`, "base openrc", "zsh base openrc base-openrc"},
		{"of one with a higher version", `
			base 1 cmd:sh
			openrc 1
			base-openrc 1 zsh | | base=1 openrc
			bash 2 | cmd:sh=2
			zsh 1 | cmd:sh=1
		`, "base openrc", "zsh base openrc base-openrc"},
		{"of a version", `
			base 1 lib
			openrc 1
			base-openrc 1 lib<2 | | base=1 openrc
			lib 1
			lib 2
		`, "base openrc", "lib base openrc base-openrc"},
		{"one after the other", `
			base 1 a b
			base-x 1 a2 | | base
			base-y 1 b2 | | base-x
			a 1
			a2 1 | a=1
			b 1
			b2 1 | b=1
		`, "base", "a2 b2 base base-x base-y"},
		{"two that exclude each other: the first by name", `
			app 1 lib
			a-if 1 lib-a | | app
			b-if 1 lib-b | | app
			lib-a 1 | lib=1
			lib-b 1 | lib=1
			lib-c 1 | lib=1
		`, "app", "lib-a app a-if"},
		{"not before what world names", `
			base 1 polkit
			openrc 1
			base-openrc 1 elogind | | base=1 openrc
			polkit 1
			elogind 1 | polkit=1
		`, "base polkit openrc", "polkit base openrc"},
		{"nor before the newest of it", `
			base 1
			base-old 1 lib<2 | | base
			lib 1
			lib 2
		`, "base lib", "base lib"},
		{"not what it alone is met by", `
			base 1 either
			trigger 1 | either=1
			other 1 | either=1
			loop 1 other | | trigger
		`, "base", "other base"},
		{"not where it takes its own reason away", `
			base 1 either
			a 1 | either=1
			b 1 | either=1
			loop 1 b | | base a
		`, "base", "a base"},
		{"nor where it cannot be at all", `
			base 1
			base-x 1 missing | | base
		`, "base", "base"},
	} {
		got, err := Solve(context.Background(), strings.Fields(c.world), []Repository{packages(t, "ports", c.index)})
		if err != nil || show(got) != c.want {
			t.Errorf("%s: got %s, %v, want %s", c.name, show(got), err, c.want)
		}
		for _, s := range got {
			if s.Meta.Name == "base-openrc" && s.Why != "install_if: base=1 openrc" {
				t.Errorf("%s: %s is there for %q", c.name, s.Meta.Name, s.Why)
			}
			if s.Meta.Name == "lib" && c.name == "of a version" && s.Meta.Version != "1" {
				t.Errorf("%s: lib %s", c.name, s.Meta.Version)
			}
		}
	}
	// A repository with a tag serves nothing that did not ask for it.
	edge := packages(t, "edge", "base-openrc 1 elogind | | base=1 openrc")
	edge.Tag = "edge"
	stable := packages(t, "stable", "base 1 polkit\nopenrc 1\npolkit 1\nelogind 1 | polkit=1")
	got, err := Solve(context.Background(), []string{"base", "openrc"}, []Repository{stable, edge})
	if err != nil || show(got) != "polkit base openrc" {
		t.Errorf("with a tag: got %s, %v", show(got), err)
	}
}

// Where nothing else tells providers apart, the one named like the command is
// taken, then the one that needs less; never the one that comes first.
func TestSolveEqualProviders(t *testing.T) {
	lines := []string{
		"gtk 1", "x11 1", "ncurses 1",
		"gvim 9 gtk x11 ncurses | cmd:vim=9 cmd:ex=9", "vim 9 ncurses | cmd:vim=9 cmd:ex=9",
		"rng-tools-extra 6 x11 gtk | cmd:rngd=6", "rng-tools 6 x11 | cmd:rngd=6",
		"a-tool 1 x11 | cmd:tool=1", "tool 1 x11 gtk | cmd:tool=1",
		"b-same 1 | cmd:same=1", "a-same 1 | cmd:same=1",
		"small 1 | cmd:big=1 priority:1", "big 1 | cmd:big=1",
		"elogind 1 | polkit=1", "polkit 1 x11 gtk",
	}
	for range 2 {
		for _, c := range []struct{ world, want string }{
			{"cmd:vim", "ncurses vim"},
			{"cmd:ex", "ncurses vim"},
			{"cmd:rngd", "x11 rng-tools"},
			{"cmd:tool", "x11 gtk tool"},
			{"cmd:same", "a-same"},
			{"cmd:big", "small"},
			{"gvim cmd:vim", "gtk x11 ncurses gvim"},
			{"polkit", "x11 gtk polkit"},
		} {
			got, err := Solve(context.Background(), strings.Fields(c.world), []Repository{packages(t, "ports", strings.Join(lines, "\n"))})
			if err != nil || show(got) != c.want {
				t.Errorf("%s: got %s, %v, want %s", c.world, show(got), err, c.want)
			}
		}
		slices.Reverse(lines)
	}
	// An earlier repository goes first all the same.
	got, err := Solve(context.Background(), []string{"cmd:vim"}, []Repository{packages(t, "mine", "gvim 9 | cmd:vim=9"), packages(t, "theirs", "vim 9 | cmd:vim=9")})
	if err != nil || show(got) != "gvim" {
		t.Errorf("got %s, %v", show(got), err)
	}
}

// What provides a name that something else owns cannot be beside itself, and is
// refused as apk refuses it.
func TestSolveSelfConflict(t *testing.T) {
	repo := packages(t, "ports", `
		twice 1 | name=2 name=3
		same 1 | name=2 name=2
		mixed 1 | name name=2
		own 1 | own
		versioned-own 1 | versioned-own=1
		fine 1 | name name
		older 1
		older 2 | older=3
	`)
	for _, c := range []struct{ world, want, err string }{
		{"twice", "", "twice-1 in ports cannot be used: it provides name twice, as 2 and as 3"},
		{"same", "", "it provides name twice, as 2 and as 2"},
		{"mixed", "", "it provides name twice, without a version and as 2"},
		{"own", "", "own-1 in ports cannot be used: it provides its own name, own"},
		{"versioned-own", "", "it provides its own name, versioned-own=1"},
		{"fine", "fine", ""},
		{"name", "fine", ""},
		{"older", "older", ""},
		{"older>1", "", "older-2 in ports cannot be used"},
	} {
		got, err := Solve(context.Background(), strings.Fields(c.world), []Repository{repo})
		if c.err != "" {
			if fault.ClassOf(err) != fault.Usage || !strings.Contains(fmt.Sprint(err), c.err) {
				t.Errorf("%s: got %s, %v, want an error with %q", c.world, show(got), err, c.err)
			}
		} else if err != nil || show(got) != c.want {
			t.Errorf("%s: got %s, %v, want %s", c.world, show(got), err, c.want)
		}
	}
}

// A world that a search without memory of causes never ends on: many free
// choices before the one that fails.
func TestSolveFailsFast(t *testing.T) {
	var b strings.Builder
	var world []string
	for i := range 60 {
		for v := range 5 {
			fmt.Fprintf(&b, "p%d %d-r0\n", i, v)
		}
		world = append(world, fmt.Sprintf("p%d", i))
	}
	b.WriteString("z 1-r0 y\ny 1-r0 gone\ny 2-r0 gone\n")
	_, err := Solve(context.Background(), append(world, "z"), []Repository{packages(t, "ports", b.String())})
	if err == nil || !strings.Contains(err.Error(), "gone, wanted by y-") {
		t.Errorf("got %v", err)
	}
}

func TestSolveStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Solve(ctx, []string{"a"}, []Repository{packages(t, "ports", "a 1")}); fault.ClassOf(err) != fault.Cancelled {
		t.Errorf("got %v", err)
	}
}
