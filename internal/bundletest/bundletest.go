// Package bundletest makes small bundles for tests that are whole: a disk with a
// file system and its hash tree, a database of packages, a lock, a provenance and
// bills of materials. Nothing in them boots.
package bundletest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/build/attest"
	"github.com/sovereign-build/sovereign/pkg/build/disk"
	"github.com/sovereign-build/sovereign/pkg/build/licenses"
	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/sbom"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/bundle"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/erofs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/verity"
)

// Options of Make.
type Options struct {
	Name, Arch string        // "sql" and "amd64"
	Key        signature.Key // the manifest names it; "" for none
	// Content is a file in the image, by which bundles differ.
	Content string
	// Program is a file that is put into the image as a program; "" for none.
	Program string
	// Plain leaves out what describes the bundle.
	Plain bool
}

const epoch = 1790000000

func digest(s string) store.Digest {
	return store.Digest(fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(s))))
}

// Internal is what the bundles' provenance says.
func Internal() attest.Internal {
	return attest.Internal{
		Kernel: attest.Kernel{Source: "linux", Patches: []attest.InputFile{{Name: "../kernel/fix.patch", Digest: digest("patch")}}, Fragments: []attest.InputFile{{Name: "base.config", Digest: digest("fragment")}}},
		Ports: []attest.Port{
			{Name: "tool", Version: "1.0-r0", License: "Apache-2.0", URL: "https://tool.example/", Packages: []string{"tool"}, Go: true},
			{Name: "zlib", Version: "1.3.1-r0", License: "Zlib", URL: "https://zlib.net/", Sources: []string{"zlib"}, Packages: []string{"zlib"}},
		},
		Lock: lock.Lock{
			Schema: lock.Schema, SourceDate: epoch,
			Sources: []lock.Source{
				{Name: "linux", Version: "6.12.107", File: "linux_6.12.107.orig.tar.xz", Digest: digest("linux"), Size: 5, Mirrors: []string{"debian:trixie/linux=6.12.107-1"}},
				{Name: "zlib", Version: "1.3.1", File: "zlib.tar.gz", Digest: digest("zlib"), Size: 4, Mirrors: []string{"https://zlib.net/zlib-1.3.1.tar.gz", "debian:trixie/zlib=1:1.3.dfsg+really1.3.1-1"}},
			},
			Toolchain: lock.Toolchain{Suite: "bookworm", Packages: []lock.DebPackage{{Name: "make", Version: "4.3-4.1", Arch: "amd64", File: "pool/main/m/make/make_4.3-4.1_amd64.deb", Digest: digest("make"), Size: 5}}},
			Go: lock.Go{Version: "go1.26.8", Modules: []lock.Module{{Name: "golang.org/toolchain", Version: "v0.0.1-go1.26.8.linux-amd64",
				Sum: "h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", Digest: digest("go"), Size: 7}}},
		},
	}
}

// Make writes a bundle to dir.
func Make(t testing.TB, dir string, o Options) *bundle.Manifest {
	t.Helper()
	m, err := write(t.Context(), dir, t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Sign signs it.
func Sign(t testing.TB, dir string, key signature.SecretKey, version string, index int64, rotations []byte) {
	t.Helper()
	if _, _, err := attest.Sign(t.Context(), dir, attest.Options{Key: key, Version: version, Index: index, Rotations: rotations}); err != nil {
		t.Fatal(err)
	}
}

// NewKey makes a key.
func NewKey(t testing.TB) signature.SecretKey {
	t.Helper()
	k, err := signature.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func write(ctx context.Context, dir, temp string, o Options) (*bundle.Manifest, error) {
	if o.Name == "" {
		o.Name = "sql"
	}
	if o.Arch == "" {
		o.Arch = "amd64"
	}
	tree, err := image(o)
	if err != nil {
		return nil, err
	}
	data, hashes, root := filepath.Join(temp, "root.erofs"), filepath.Join(temp, "root.verity"), filepath.Join(temp, "root.img")
	hash, err := writeRoot(ctx, tree, data, hashes, root, o.Arch)
	if err != nil {
		return nil, err
	}
	in := Internal()
	locked, err := in.Lock.Digest()
	if err != nil {
		return nil, err
	}
	w, err := bundle.Create(dir)
	if err != nil {
		return nil, err
	}
	for _, f := range []struct{ name, role, text string }{
		{"bzImage", bundle.RoleKernel, "kernel"}, {"initramfs.cpio", bundle.RoleInitramfs, "cpio"},
		{"kernel.config", bundle.RoleKernelConfig, "CONFIG_NET=y\n# CONFIG_NFSD is not set\n"},
	} {
		if err := w.Add(ctx, f.name, f.role, strings.NewReader(f.text)); err != nil {
			return nil, errors.Join(err, w.Abort())
		}
	}
	f, err := os.Open(root)
	if err != nil {
		return nil, errors.Join(err, w.Abort())
	}
	defer f.Close()
	if err := w.Add(ctx, "root.img", bundle.RoleRoot, f); err != nil {
		return nil, errors.Join(err, w.Abort())
	}
	m := bundle.Manifest{
		Schema: bundle.Schema, Name: o.Name, Arch: o.Arch, SourceDate: epoch, Lock: bundle.Lock{Digest: locked.String()},
		Root:     bundle.Root{Serial: "root", Hash: hash},
		VM:       bundle.VM{MemoryMiB: 64, CPUs: 1, Cmdline: "roothash=" + hash + " root.serial=root", Data: bundle.Data{Serial: "data", Size: 64 << 20}},
		Services: []string{"tool"}, Packages: []bundle.Package{{Name: "tool", Version: "1.0-r0"}, {Name: "zlib", Version: "1.3.1-r0"}},
	}
	if o.Key != "" {
		m.Release = &bundle.Release{Key: string(o.Key)}
	}
	out, err := w.Commit(ctx, m)
	if err != nil || o.Plain {
		return out, err
	}
	return out, describe(ctx, dir, in)
}

func describe(ctx context.Context, dir string, in attest.Internal) error {
	offer, m, err := bundle.Offer(dir)
	if err != nil {
		return err
	}
	text, err := attest.NewProvenance(m, offer.Manifest, in).Marshal()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, bundle.ProvenanceFile), text, 0o644); err != nil {
		return err
	}
	bill, err := sbom.Contents(ctx, dir)
	if err != nil {
		return err
	}
	if err := license(dir, bill); err != nil {
		return err
	}
	files, err := bill.Files()
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f.Name), f.Text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// license writes a licence for each source.
func license(dir string, bill *sbom.Bill) error {
	list, texts, err := licenses.Make(bill.LicenseList(), func(c licenses.Component) []licenses.Found {
		if c.Kind != string(sbom.KindSource) {
			return nil
		}
		text := []byte("Do with " + c.Name + " what you like.\n")
		return []licenses.Found{{Path: "COPYING", Text: text, Size: int64(len(text))}}
	})
	if err != nil {
		return err
	}
	index, err := list.Marshal()
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, bundle.LicenseTextsFile), texts, 0o644), os.WriteFile(filepath.Join(dir, bundle.LicensesFile), index, 0o644)); err != nil {
		return err
	}
	return bill.AddLicenses(list, store.FromBytes(texts).String())
}

// image is what the root file system holds.
func image(o Options) (*rootfs.Tree, error) {
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[o.Arch]
	database := "P:zlib\nV:1.3.1-r0\nA:" + arch + "\nL:Zlib\nU:https://zlib.net/\no:zlib\nF:lib\nR:libz.so\n\n" +
		"P:tool\nV:1.0-r0\nA:" + arch + "\nL:Apache-2.0\nU:https://tool.example/\no:tool\nF:usr/bin\nR:tool\n\n"
	t := rootfs.New()
	entries := []rootfs.Entry{
		rootfs.Dir("lib", 0o755), rootfs.Dir("lib/apk", 0o755), rootfs.Dir("lib/apk/db", 0o755),
		rootfs.Regular("lib/apk/db/installed", 0o644, []byte(database)), rootfs.Regular("lib/libz.so", 0o755, []byte("zlib "+o.Content)),
		rootfs.Dir("usr", 0o755), rootfs.Dir("usr/bin", 0o755),
	}
	program := rootfs.Regular("usr/bin/tool", 0o755, []byte("tool"))
	if o.Program != "" {
		info, err := os.Stat(o.Program)
		if err != nil {
			return nil, err
		}
		program = rootfs.Entry{Path: "usr/bin/tool", Mode: 0o755, Size: info.Size(), Content: rootfs.File(o.Program)}
	}
	for _, e := range append(entries, program) {
		if err := t.Add(e); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func writeRoot(ctx context.Context, tree *rootfs.Tree, data, hashes, root, arch string) (string, error) {
	f, err := os.Create(data)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := erofs.Write(ctx, f, tree, erofs.Options{Epoch: epoch})
	if err != nil {
		return "", err
	}
	v, err := verity.Format(ctx, data, hashes, verity.Options{Salt: info.UUID[:], UUID: info.UUID})
	if err != nil {
		return "", err
	}
	rootType, verityType, err := disk.RootTypes(arch)
	if err != nil {
		return "", err
	}
	rootGUID, verityGUID := v.Root.PartitionGUIDs()
	sum := sha256.Sum256(v.Root[:])
	d := disk.Disk{GUID: disk.GUID(sum[:16])}
	for _, p := range []struct {
		label, file string
		kind, guid  disk.GUID
	}{{"root", data, rootType, rootGUID}, {"root-verity", hashes, verityType, verityGUID}} {
		in, err := os.Open(p.file)
		if err != nil {
			return "", err
		}
		defer in.Close()
		size, err := in.Seek(0, io.SeekEnd)
		if err == nil {
			_, err = in.Seek(0, io.SeekStart)
		}
		if err != nil {
			return "", err
		}
		d.Partitions = append(d.Partitions, disk.Partition{Label: p.label, Type: p.kind, GUID: p.guid, Content: in, Size: size})
	}
	_, err = disk.Write(ctx, root, d)
	return v.Root.String(), err
}
