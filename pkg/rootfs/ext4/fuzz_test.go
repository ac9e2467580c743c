package ext4

import (
	"bytes"
	"context"
	"crypto/sha256"
	"hash"
	"io/fs"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// FuzzWrite writes whatever tree an archive holds: twice the same bytes, or an
// error.
func FuzzWrite(f *testing.F) {
	for _, entries := range [][]rootfs.Entry{nil, sample()[:27], {
		{Path: "d", Mode: fs.ModeDir | 0o755, Xattrs: map[string][]byte{"system.posix_acl_default": acl, "user.x": pattern(3000)}},
		{Path: "n", Mode: fs.ModeDevice, Major: 259, Minor: 300},
		rootfs.Symlink("s", "nowhere"),
		file("f", 20000),
		rootfs.Hardlink("h", "f"),
	}} {
		tree := rootfs.New()
		for _, e := range entries {
			if e.Mode.Type() == fs.ModeSocket {
				continue
			}
			add(f, tree, e)
		}
		var b bytes.Buffer
		if err := rootfs.WriteTar(&b, tree, epoch); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		spool, err := rootfs.NewSpool(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer spool.Close()
		tree, err := rootfs.ReadTar(context.Background(), bytes.NewReader(archive), spool,
			rootfs.WithLimits(rootfs.Limits{Entries: 1000, Bytes: 16 << 20}))
		if err != nil {
			return
		}
		var digests [2][]byte
		for i := range digests {
			sink := digestFile{sha256.New()}
			_, err := Write(context.Background(), sink, tree, Options{})
			if err != nil && i == 0 {
				return // what ext4 cannot hold
			}
			if err != nil {
				t.Fatalf("the second time: %v", err)
			}
			digests[i] = sink.Sum(nil)
		}
		if !bytes.Equal(digests[0], digests[1]) {
			t.Error("the same tree gave two images")
		}
	})
}

// digestFile takes the digest of all writes, in their order.
type digestFile struct{ hash.Hash }

func (d digestFile) WriteAt(p []byte, at int64) (int, error) {
	var b [8]byte
	put64(b[:], uint64(at))
	d.Write(b[:])
	return d.Write(p)
}

func (digestFile) Truncate(int64) error { return nil }
