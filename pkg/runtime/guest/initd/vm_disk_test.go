package initd

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// formatted is a data disk with a file system that was made with the features,
// smaller than the disk.
func formatted(t *testing.T, features string) string {
	t.Helper()
	data := blankDisk(t, 128<<20)
	output(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", features, data)
	if err := os.Truncate(data, 192<<20); err != nil {
		t.Fatal(err)
	}
	return data
}

func clean(t *testing.T, data string) {
	t.Helper()
	if out, err := exec.Command("e2fsck", "-n", data).CombinedOutput(); err != nil || !strings.Contains(string(out), ": clean,") {
		t.Errorf("data disk after a shutdown: %v\n%s", err, out)
	}
}

// slowCheck is an e2fsck that has a lot to do, and ends in order when it is
// told to.
const slowCheck = `#!/bin/sh
trap 'echo e2fsck: canceled in order >/dev/console; exit 32' TERM
while :; do sleep 1; done
`

func TestVMDataDisk(t *testing.T) {
	img := makeImage(t)
	params := dataSerial + "roothash=" + img.rootHash + " " + staticNet
	t.Run("a shutdown during the check", func(t *testing.T) {
		img := makeImage(t, func(root string) { write(t, root+"/sbin/e2fsck", []byte(slowCheck), 0o755) })
		data := formatted(t, "metadata_csum")
		f, err := os.OpenFile(data, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte{0, 0}, 1024+0x3a); err != nil { // s_state: not unmounted in order
			t.Fatal(err)
		}
		v := boot(t, img, data, dataSerial+"roothash="+img.rootHash+" "+staticNet)
		c := v.client()
		v.until(c, "the check of the data disk", func(*agent.Status) bool {
			b, err := c.Boot(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return slices.ContainsFunc(b.Phases, func(p agent.Phase) bool { return p.Name == "data disk: check" && p.EndMS == 0 })
		})
		v.shutdown(c)
		text := v.text()
		if !strings.Contains(text, "e2fsck: canceled in order") || !strings.Contains(text, "no service is started") {
			t.Errorf("console:\n%s", text)
		}
	})
	t.Run("a file system that does not grow", func(t *testing.T) {
		data := formatted(t, "sparse_super2")
		v := boot(t, img, data, params)
		c := v.client()
		s := v.until(c, "services beside the trouble", func(s *agent.Status) bool {
			b, _ := s.Service("beat")
			return b.Healthy && s.State == agent.StateDegraded
		})
		if len(s.Troubles) != 1 || !strings.Contains(s.Troubles[0], "grow") {
			t.Errorf("troubles: %q", s.Troubles)
		}
		v.shutdown(c)
		clean(t, data)
	})
	t.Run("errors in the file system", func(t *testing.T) {
		data := blankDisk(t, 128<<20)
		v := boot(t, img, data, params)
		c := v.client()
		v.until(c, "ready", ready)
		v.shell(c, "for f in /sys/fs/ext4/*/trigger_fs_error; do echo test >$f; done")
		v.until(c, "a word about the errors", func(s *agent.Status) bool {
			return slices.ContainsFunc(s.Troubles, func(s string) bool {
				return strings.Contains(s, "errors in its file system (1, first in trigger_test_error)")
			})
		})
		v.shutdown(c)
		v = boot(t, img, data, params)
		c = v.client()
		v.until(c, "ready again", ready)
		v.shutdown(c)
		clean(t, data)
	})
}
