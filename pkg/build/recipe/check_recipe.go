package recipe

import (
	"errors"
	"io/fs"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/arch"
	"github.com/sovereign-build/sovereign/pkg/kernel"
	"github.com/sovereign-build/sovereign/pkg/rootfs/erofs"
)

// Smallest sizes that make sense: a kernel with its initramfs does not start
// in less memory, and ext4 with a journal wants this much disk.
const (
	minMemory = 64 * MiB
	minData   = 64 * MiB
)

func checkRecipe(doc *document, r *Recipe) error {
	c := &check{doc: doc}
	if err := checkInclude(c, r); err != nil {
		return err
	}
	if r.Schema != Schema {
		c.failf("schema", "schema is %d, this program reads %d", r.Schema, Schema)
	}
	c.name("name", "recipe name", r.Name)
	c.notBlank("summary", r.Summary)
	c.notBlank("toolchain", r.Toolchain)
	c.notBlank("ports", r.Ports)
	c.notBlank("sources", r.Sources)
	if len(r.Architectures) == 0 {
		c.failf("architectures", "architectures is empty, list %s", arch.Choice())
	}
	seen := map[string]string{}
	for i, a := range r.Architectures {
		c.architecture(index("architectures", i), a)
		unique(c, seen, index("architectures", i), "architecture", a)
	}
	if c.given("kernel") {
		checkKernel(c, r)
	}
	for i, repo := range r.Repositories {
		if _, repo = SplitTag(repo); repo == "" {
			c.failf(index("repositories", i), "repository %q is not a location, or a tag and a location: @edge https://…", r.Repositories[i])
		}
		if u, err := url.Parse(repo); strings.Contains(repo, "://") && (err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http")) {
			c.failf(index("repositories", i), "repository %q is neither an http or https URL nor a directory", repo)
		}
	}
	checkTrust(c, r)
	if c.given("release") {
		c.notEmpty("release.key", r.Release.Key)
	}
	if c.given("cache") && len(r.Cache.Keys) == 0 {
		c.failf("cache", "cache.keys is empty: name the key of whoever fills the cache")
	}
	if len(r.Packages) == 0 && c.given("packages") {
		c.failf("packages", "packages is empty, an image needs at least sovereign-init")
	}
	c.dependencies("packages", r.Packages)
	checkActions(c, r.Actions)
	users := checkUsers(c, r.Users)
	checkFiles(c, r.Files, users)
	if c.given("vm") {
		checkRoot(c, r.Root)
		c.mebibytes("vm.memory", r.VM.Memory, minMemory)
		c.between("vm.cpus", r.VM.CPUs, 1, 64)
		c.mebibytes("vm.data", r.VM.Data, minData)
	}
	if c.given("services") {
		checkServices(c, r.Services, users)
	}
	return c.err
}

// architecture knows the names other projects use for ours.
func (c *check) architecture(where, name string) {
	a, ok := arch.OfUname(name)
	if name == "x86" {
		a, ok = arch.OfUname("x86_64")
	}
	if ok && a.Go != name {
		c.failf(where, "unknown architecture %q, did you mean %q?", name, a.Go)
	}
	c.oneOf(where, "architecture", name, arch.Names()...)
}

func checkRoot(c *check, r Root) {
	if c.given("root.compression") {
		c.oneOf("root.compression", "compression", r.Compression, erofs.Algorithms()...)
	} else if r != (Root{}) {
		c.failf("root", "root has no compression, which its level and cluster are for; it is one of %s", strings.Join(erofs.Algorithms(), ", "))
	}
	if c.given("root.level") {
		c.between("root.level", r.Level, 1, erofs.MaxLevel)
	}
	if c.given("root.cluster") && (r.Cluster < erofs.BlockSize || r.Cluster > erofs.MaxClusterSize || r.Cluster%erofs.BlockSize != 0) {
		c.failf("root.cluster", "root.cluster is %s, allowed are multiples of %s to %s", r.Cluster, Size(erofs.BlockSize), Size(erofs.MaxClusterSize))
	}
}

func checkKernel(c *check, r *Recipe) {
	c.notEmpty("kernel.source", r.Kernel.Source)
	patches := map[string]string{}
	for i, f := range r.Kernel.Patches {
		unique(c, patches, index("kernel.patches", i), "patch", f)
		if !strings.HasSuffix(f, ".patch") {
			c.failf(index("kernel.patches", i), "patch %q has to be a file *.patch", f)
		}
	}
	if len(r.Kernel.Fragments) == 0 {
		c.failf("kernel.fragments", "kernel.fragments is empty, allnoconfig alone boots nothing")
	}
	seen := map[string]string{}
	for i, f := range r.Kernel.Fragments {
		unique(c, seen, index("kernel.fragments", i), "fragment", f)
	}
	sets, err := kernel.RequirementSets()
	if err != nil && c.err == nil {
		c.err = err
	}
	for i, set := range r.Kernel.Require {
		c.oneOf(index("kernel.require", i), "requirement set", set, sets...)
	}
	for _, arch := range slices.Sorted(slices.Values(keys(r.Kernel.Arch))) {
		where := "kernel.arch." + arch
		c.architecture(where+"#key", arch)
		for i, f := range r.Kernel.Arch[arch] {
			if first, ok := seen[f]; ok {
				c.failf(index(where, i), "fragment %q is used twice, %s", f, c.first(first))
			}
		}
	}
}

// checkUsers returns the names that files and services can be given to.
func checkUsers(c *check, users []User) []string {
	names, uids := map[string]string{}, map[int]string{}
	known := []string{"root"}
	for i, u := range users {
		where := index("users", i)
		c.name(where+".name", "user name", u.Name)
		if u.Name == "root" {
			c.failf(where+".name", "user root is in every image, it cannot be given again")
		}
		c.between(where+".uid", u.UID, 1, 65533)
		unique(c, names, where+".name", "user name", u.Name)
		unique(c, uids, where+".uid", "uid", u.UID)
		for key, value := range map[string]string{"home": u.Home, "shell": u.Shell} {
			if value != "" && value != "/" {
				c.absolute(where+"."+key, value)
			}
			if strings.Contains(value, ":") {
				c.failf(where+"."+key, "%s %q has a colon in it, which /etc/passwd cannot hold", key, value)
			}
		}
		known = append(known, u.Name)
	}
	return known
}

func checkFiles(c *check, files []File, users []string) {
	seen := map[string]string{}
	for i, f := range files {
		where := index("files", i)
		c.absolute(where+".path", f.Path)
		unique(c, seen, where+".path", "path", f.Path)
		// These are mounted over at boot, so that a file below would never be
		// seen.
		for _, hidden := range []string{"/data", "/dev", "/proc", "/run", "/sys", "/tmp"} {
			if strings.HasPrefix(f.Path, hidden+"/") {
				c.failf(where+".path", "path %q lies under %s, which the guest mounts over", f.Path, hidden)
			}
		}
		var given []string
		for _, key := range []string{"from", "content", "link", "directory"} {
			if c.given(where + "." + key) {
				given = append(given, key)
			}
		}
		// In Go there is an empty file without any.
		if len(given) != 1 && (len(given) > 0 || !c.ofGo()) {
			c.failf(where+".path", "file %q has %s, exactly one of from, content, link and directory is needed", f.Path, orNone(given))
		}
		if c.given(where + ".link") {
			c.notEmpty(where+".link", f.Link)
		}
		if c.given(where+".directory") && !f.Directory {
			c.failf(where+".directory", "directory is false, leave the key out")
		}
		if c.given(where + ".mode") {
			c.mode(where+".mode", f.Mode)
		}
		if f.User != "" {
			c.oneOf(where+".user", "user", f.User, users...)
		}
	}
}

func orNone(given []string) string {
	if len(given) == 0 {
		return "none of its kinds"
	}
	return strings.Join(given, " and ")
}

// checkTrust checks what is said of single repositories.
func checkTrust(c *check, r *Recipe) {
	var locations []string
	for _, repo := range r.Repositories {
		_, location := SplitTag(repo)
		locations = append(locations, location)
	}
	for _, location := range slices.Sorted(maps.Keys(r.Trust)) {
		where := join("trust", location)
		if !slices.Contains(locations, location) {
			c.failf(where+"#key", "trust: the recipe has no repository %q%s", location, unknown(location, locations))
		}
		t := r.Trust[location]
		if len(t.Keys) == 0 {
			c.failf(where+".keys", "trust: no key for %s, name at least one", location)
		}
		if c.given(where + ".sha1") {
			c.oneOf(where+".sha1", "word for sha1", t.SHA1, "allow", "refuse")
		}
	}
}

// checkRecipeFiles looks at the files: what a recipe names must be there.
func checkRecipeFiles(doc *document, r *Recipe) error {
	c := &check{doc: doc}
	for _, d := range []struct {
		path, what, name string
		directory        bool
	}{
		{"toolchain", "toolchain", r.Toolchain, true},
		{"ports", "ports directory", r.Ports, true},
		{"sources", "list of sources", r.Sources, false},
	} {
		if c.given(d.path) {
			c.there(d.path, d.what, r.Resolve(d.name), d.directory)
		}
	}
	for i, f := range r.Kernel.Patches {
		c.there(index("kernel.patches", i), "patch", r.Resolve(f), false)
	}
	for i, f := range r.Kernel.Fragments {
		c.there(index("kernel.fragments", i), "fragment", r.Resolve(f), false)
	}
	for _, arch := range slices.Sorted(slices.Values(keys(r.Kernel.Arch))) {
		for i, f := range r.Kernel.Arch[arch] {
			c.there(index("kernel.arch."+arch, i), "fragment", r.Resolve(f), false)
		}
	}
	for i, k := range r.Keys {
		c.there(index("keys", i), "key", r.Resolve(k), false)
	}
	for _, location := range slices.Sorted(maps.Keys(r.Trust)) {
		for i, k := range r.Trust[location].Keys {
			c.there(index(join("trust", location)+".keys", i), "key", r.Resolve(k), false)
		}
	}
	if r.Release.Key != "" {
		c.there("release.key", "key", r.Resolve(r.Release.Key), false)
	}
	for i, k := range r.Cache.Keys {
		c.there(index("cache.keys", i), "key", r.Resolve(k), false)
	}
	for i, f := range r.Files {
		if f.From != "" {
			c.there(index("files", i)+".from", "file", r.Resolve(f.From), false)
		}
	}
	if c.err != nil {
		return c.err
	}
	if !c.given("kernel") {
		return nil
	}
	sources, err := r.LoadSources()
	if err != nil {
		return err
	}
	c.oneOf("kernel.source", "source", r.Kernel.Source, keys(sources)...)
	return c.err
}

func (c *check) there(path, what string, file Ref, directory bool) {
	info, err := file.Stat()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.failf(path, "%s is missing: there is no %s", what, file)
	case err != nil:
		c.failf(path, "%s cannot be read: %v", what, err)
	case directory && !info.IsDir():
		c.failf(path, "%s %s is not a directory", what, file)
	case !directory && !info.Mode().IsRegular():
		c.failf(path, "%s %s is not a regular file", what, file)
	}
}
