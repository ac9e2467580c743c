package ext4

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/internal/treetest"
)

// e2fsckSays is all that e2fsck prints of a file system without a fault.
var e2fsckSays = regexp.MustCompile(`^e2fsck .*\n` +
	`Pass 1: Checking inodes, blocks, and sizes\n` +
	`Pass 2: Checking directory structure\n` +
	`Pass 3: Checking directory connectivity\n` +
	`Pass 4: Checking reference counts\n` +
	`Pass 5: Checking group summary information\n` +
	`.*: (\d+)/(\d+) files \(\d+\.\d% non-contiguous\), (\d+)/(\d+) blocks\n$`)

// fsck wants e2fsck -fn to have nothing to say.
func fsck(t testing.TB, path string) {
	t.Helper()
	cmd := exec.Command(tool(t, "e2fsck"), "-fn", path)
	cmd.Env = append(os.Environ(), fmt.Sprint("E2FSCK_TIME=", 1<<32-1)) // its clock, of 32 bits
	out, err := cmd.CombinedOutput()
	if err != nil || !e2fsckSays.Match(out) {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
}

func TestFsck(t *testing.T) {
	const MiB, GiB, TiB = 1 << 20, 1 << 30, 1 << 40
	empty, full := rootfs.New(), build(t, sample(), "top-link")
	for _, test := range []struct {
		name string
		tree *rootfs.Tree
		o    Options
	}{
		{"empty", empty, Options{}},
		{"sample", full, Options{}},
		{"least", empty, Options{Size: MinSize}},
		{"not whole blocks", empty, Options{Size: MinSize + 4095}},
		{"labelled, reserved, last time", full, Options{Label: "sixteen letters!", ReservedPercent: 5, Epoch: MaxEpoch}},
		{"1970", full, Options{Epoch: 0}},
		{"after 2038", full, Options{Epoch: 1 << 31}},
		{"one group less a block", full, Options{Size: 128*MiB - BlockSize}},
		{"one group", full, Options{Size: 128 * MiB}},
		{"one group and too little for another", full, Options{Size: 128*MiB + 50*BlockSize}},
		{"two groups", full, Options{Size: 130 * MiB}},
		{"ten groups", full, Options{Size: 1280 * MiB}},
		{"another flexible group begins", full, Options{Size: 2*GiB + 64*MiB}},
		{"many inodes", full, Options{Size: 4 * GiB, BytesPerInode: 8192}},
		{"as many inodes as can be", full, Options{Size: 3 * GiB, BytesPerInode: 4096}},
		{"few inodes", full, Options{Size: 4 * GiB, BytesPerInode: 1 << 30}},
		{"long journal", full, Options{Size: 4 * GiB, JournalSize: 1 * GiB}},
		{"100 GiB", full, Options{Size: 100 * GiB}},
		{"2 TiB", empty, Options{Size: 2 * TiB, BytesPerInode: 4 << 20}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.o.Size >= TiB && testing.Short() {
				t.Skip("e2fsck needs some time for it")
			}
			image, info := write(t, test.tree, test.o)
			fsck(t, image)
			fields := dumpe2fs(t, image)
			for key, want := range map[string]string{
				"Filesystem features":  "has_journal ext_attr resize_inode dir_index filetype extent 64bit flex_bg sparse_super large_file huge_file dir_nlink extra_isize metadata_csum",
				"Filesystem state":     "clean",
				"Block count":          fmt.Sprint(info.Blocks),
				"Free blocks":          fmt.Sprint(info.FreeBlocks),
				"Inode count":          fmt.Sprint(info.Inodes),
				"Free inodes":          fmt.Sprint(info.FreeInodes),
				"Journal features":     "journal_64bit journal_checksum_v3",
				"Reserved block count": fmt.Sprint(info.Blocks * uint64(test.o.ReservedPercent) / 100),
			} {
				if fields[key] != want {
					t.Errorf("%s: %q, want %q", key, fields[key], want)
				}
			}
			if want := fmt.Sprintf("%x-%x-%x-%x-%x", info.UUID[:4], info.UUID[4:6], info.UUID[6:8], info.UUID[8:10], info.UUID[10:]); fields["Filesystem UUID"] != want {
				t.Errorf("UUID %q, want %q", fields["Filesystem UUID"], want)
			}
			if label := fields["Filesystem volume name"]; label != test.o.Label && label != "<none>" {
				t.Errorf("label %q, want %q", label, test.o.Label)
			}
		})
	}
}

// dumpe2fs is the superblock and the journal as dumpe2fs -h prints them.
func dumpe2fs(t testing.TB, image string) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for line := range strings.Lines(runTool(t, "dumpe2fs", "-h", image)) {
		if key, value, ok := strings.Cut(line, ":"); ok {
			fields[key] = strings.TrimSpace(value)
		}
	}
	return fields
}

// The superblock copies are good: e2fsck finds its way from each.
func TestBackupSuperblock(t *testing.T) {
	image, info := write(t, build(t, sample(), "top-link"), Options{Size: 1280 << 20})
	for g := uint64(1); g*groupBlocks < info.Blocks; g++ {
		if hasSuper(uint32(g)) {
			out := runTool(t, "dumpe2fs", "-h", "-o", fmt.Sprintf("superblock=%d", g*groupBlocks), "-o", "blocksize=4096", image)
			if !strings.Contains(out, fmt.Sprintf("%-26s%d", "Block count:", info.Blocks)) {
				t.Errorf("copy in group %d:\n%s", g, out)
			}
		}
	}
}

// TestDirectories: names at every level of the index, in a directory of one
// block and in those of many.
func TestDirectories(t *testing.T) {
	for _, test := range []struct {
		count, length int
		levels        string
	}{
		{1, 255, ""}, {15, 255, ""}, {16, 255, "Indirect levels: 0"},
		{300, 5, "Indirect levels: 0"}, {20000, 24, "Indirect levels: 0"},
		{8000, 255, "Indirect levels: 1"}, {100000, 24, "Indirect levels: 1"},
	} {
		t.Run(fmt.Sprintf("%d of %d", test.count, test.length), func(t *testing.T) {
			tree := rootfs.New()
			for i := range test.count {
				add(t, tree, rootfs.Regular(fmt.Sprintf("d/%0*d", test.length, i), 0o644, nil))
			}
			image, _ := write(t, tree, Options{Epoch: epoch})
			fsck(t, image)
			dump, err := exec.Command(tool(t, "debugfs"), "-R", "htree_dump /d", image).CombinedOutput()
			if err != nil || (test.levels != "" && !strings.Contains(string(dump), test.levels)) ||
				(test.levels == "") != strings.Contains(string(dump), "Not a hash-indexed directory") {
				t.Errorf("debugfs: %v\n%.500s", err, dump)
			}
		})
	}
}

// More subdirectories than a link count holds.
func TestManySubdirectories(t *testing.T) {
	tree := rootfs.New()
	for i := range MaxLinks + 10 {
		add(t, tree, rootfs.Dir(fmt.Sprintf("d/%d", i), 0o755))
	}
	image, _ := write(t, tree, Options{Epoch: epoch})
	fsck(t, image)
	if out := runTool(t, "debugfs", "-R", "stat /d", image); !strings.Contains(out, "Links: 1 ") {
		t.Errorf("links of the directory:\n%s", out)
	}
}

// TestNameHash holds the hash of names against debugfs.
func TestNameHash(t *testing.T) {
	uuid := [16]byte{0xab, 0xcd, 15: 0xef}
	seed := hashSeed(uuid)
	var b [16]byte
	for i, word := range seed {
		binary.LittleEndian.PutUint32(b[4*i:], word)
	}
	text := fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	for _, n := range []int{1, 3, 4, 5, 31, 32, 33, 63, 64, 65, 255} {
		name := strings.Repeat("azAZ09_-.", 30)[:n]
		major, minor := nameHash(seed, name)
		want := fmt.Sprintf("is 0x%x (minor 0x%x)", major, minor)
		if out := runTool(t, "debugfs", "-R", "dx_hash -h half_md4 -s "+text+" "+name); !strings.Contains(out, want) {
			t.Errorf("%s: %s, debugfs says %s", name, want, out)
		}
	}
}

// TestRandomTrees writes trees drawn by fixed seeds.
func TestRandomTrees(t *testing.T) {
	for seed := range uint64(40) {
		tree := treetest.Random(t, seed)
		r := rand.New(rand.NewPCG(seed, 7))
		o := Options{Epoch: r.Int64N(MaxEpoch), BytesPerInode: 4096 << r.IntN(8), ReservedPercent: r.IntN(20)}
		image, info := write(t, tree, o)
		if r.IntN(2) == 0 {
			o.Size = info.Size + r.Int64N(700<<20)
			image, _ = write(t, tree, o)
		}
		fsck(t, image)
	}
}
