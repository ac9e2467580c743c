package vault

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/backup/image"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const testKey = "a key for tests only"

// world is a repository, and a machine with a disk.
type world struct {
	job  backupjob.Job
	disk string
	size int64
	rnd  *rand.Rand
}

func newWorld(t testing.TB, url string) *world {
	t.Helper()
	dir := t.TempDir()
	if url == "" {
		url = filepath.Join(dir, "repository")
	}
	w := &world{
		job:  backupjob.Job{Repository: url, Secrets: backup.Secrets{Key: testKey}, Dir: filepath.Join(dir, "job"), Host: "phone"},
		disk: filepath.Join(dir, "data.img"), size: 96 << 20, rnd: rand.New(rand.NewPCG(1, 2)),
	}
	f, err := os.Create(w.disk)
	if err == nil {
		err = errors.Join(f.Truncate(w.size), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	// Something at the begin, across a piece's end, and at the end; the rest are
	// holes.
	for _, at := range []int64{0, 30 << 20, piece - 1<<20, w.size - 300_000} {
		w.scribble(t, at, 2<<20)
	}
	return w
}

// scribble writes random bytes to the disk.
func (w *world) scribble(t testing.TB, at, n int64) {
	t.Helper()
	b := make([]byte, min(n, w.size-at))
	for i := range b {
		b[i] = byte(w.rnd.Uint32())
	}
	f, err := os.OpenFile(w.disk, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(b, at)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func (w *world) verb(v backupjob.Verb, with func(*backupjob.Job)) backupjob.Job {
	j := w.job
	j.Verb, j.Machine = v, "sql"
	if with != nil {
		with(&j)
	}
	return j
}

var yes = Talk{
	Say: func(backupjob.Said) {},
	Ask: func(context.Context) (backupjob.Answer, error) { return backupjob.Answer{}, nil },
}

func (w *world) do(ctx context.Context, v backupjob.Verb, with func(*backupjob.Job)) (*backupjob.Result, error) {
	return Run(ctx, w.verb(v, with), yes)
}

func (w *world) must(t testing.TB, v backupjob.Verb, with func(*backupjob.Job)) *backupjob.Result {
	t.Helper()
	r, err := w.do(t.Context(), v, with)
	if err != nil {
		t.Fatalf("%s: %v (%s)", v, err, fault.HintOf(err))
	}
	return r
}

func (w *world) manifest() *backup.Manifest {
	return &backup.Manifest{Machine: "sql", Taken: time.Now().UTC(), Bundle: backup.Bundle{Name: "sql", Arch: "amd64", Digest: "sha256:" + strings.Repeat("0", 64)}}
}

func (w *world) backup(t testing.TB) backup.Snapshot {
	t.Helper()
	r := w.must(t, backupjob.Backup, func(j *backupjob.Job) { j.Disk, j.Manifest = w.disk, w.manifest() })
	return r.Snapshots[0]
}

func sumOf(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// restore restores a backup and compares it with a sum.
func (w *world) restore(t *testing.T, id, want string) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "restored.img")
	w.must(t, backupjob.Restore, func(j *backupjob.Job) { j.Disk, j.Snapshot = to, id })
	if got := sumOf(t, to); got != want {
		t.Errorf("%s was restored as another disk", id)
	}
	var st, orig fs.FileInfo
	st, err := os.Stat(to)
	if err == nil {
		orig, err = os.Stat(w.disk)
	}
	if err != nil || st.Size() != orig.Size() {
		t.Errorf("%v, %v", st, err)
	}
}

func TestBackupAndRestore(t *testing.T) {
	w := newWorld(t, "")
	w.must(t, backupjob.Init, nil)
	first, sum1 := w.backup(t), sumOf(t, w.disk)
	if first.Stored < 4<<20 || first.Stored > 12<<20 || first.Read < 4<<20 || first.Read > w.size/2 || first.Size != w.size {
		t.Errorf("the first: %+v", first)
	}
	again := w.backup(t)
	if again.Stored > 64<<10 {
		t.Errorf("an unchanged disk took %d bytes", again.Stored)
	}
	w.scribble(t, 31<<20, 10_000)
	second, sum2 := w.backup(t), sumOf(t, w.disk)
	if second.Stored < 10_000 || second.Stored > 1<<20 {
		t.Errorf("10 kB took %d bytes", second.Stored)
	}
	w.restore(t, first.ID, sum1)
	w.restore(t, second.ID, sum2)
	w.restore(t, "", sum2)
	list := w.must(t, backupjob.List, nil).Snapshots
	if len(list) != 3 || list[0].ID != first.ID || list[2].ID != second.ID || list[0].Host != "phone" || list[0].Proven != nil {
		t.Errorf("listed: %+v", list)
	}
	v := w.must(t, backupjob.Verify, func(j *backupjob.Job) { j.Percent = 100 })
	if v.Checked != 3 || v.Read != first.Read+again.Read+second.Read {
		t.Errorf("verified: %+v", v)
	}
}

// A zero in the store is one reference; and an odd size has no hole at its end.
func TestPieces(t *testing.T) {
	const size = 3*piece + 1000
	for name, test := range map[string]struct {
		ranges []image.Range
		want   [][2]int64
	}{
		"empty":           {nil, [][2]int64{{3 * piece, 1000}}},
		"rounded":         {[]image.Range{{Offset: 5000, Length: 10}}, [][2]int64{{0, block}, {3 * piece, 1000}}},
		"near":            {[]image.Range{{Offset: 0, Length: block}, {Offset: block + gap - block, Length: 1}}, [][2]int64{{0, block + gap}, {3 * piece, 1000}}},
		"apart":           {[]image.Range{{Offset: 0, Length: 1}, {Offset: 2*gap + block, Length: 1}}, [][2]int64{{0, block}, {2*gap + block, block}, {3 * piece, 1000}}},
		"across":          {[]image.Range{{Offset: piece - block, Length: 2 * block}}, [][2]int64{{piece - block, block}, {piece, block}, {3 * piece, 1000}}},
		"all":             {[]image.Range{{Offset: 0, Length: size}}, [][2]int64{{0, piece}, {piece, piece}, {2 * piece, piece}, {3 * piece, 1000}}},
		"the end and all": {[]image.Range{{Offset: 2 * piece, Length: piece + 1000}}, [][2]int64{{2 * piece, piece}, {3 * piece, 1000}}},
	} {
		var got [][2]int64
		for _, p := range pieces(test.ranges, size) {
			got = append(got, [2]int64{p.Offset, p.Length})
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestBundleInBackup(t *testing.T) {
	w := newWorld(t, "")
	w.must(t, backupjob.Init, nil)
	src := t.TempDir()
	files := map[string]string{}
	for name, text := range map[string]string{"manifest.json": "{}", "vmlinuz": strings.Repeat("kernel", 100_000)} {
		files[name] = filepath.Join(src, name)
		if err := os.WriteFile(files[name], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := w.must(t, backupjob.Backup, func(j *backupjob.Job) {
		j.Disk, j.Manifest, j.BundleFiles, j.BundleManifest = w.disk, w.manifest(), files, files["manifest.json"]
	}).Snapshots[0]
	if !s.Whole {
		t.Error("the bundle is not said to be there")
	}
	to := filepath.Join(t.TempDir(), "bundle")
	r := w.must(t, backupjob.Restore, func(j *backupjob.Job) { j.BundleDir = to })
	if r.Manifest == nil || !r.Manifest.Bundle.Whole || r.Read != 0 {
		t.Errorf("%+v", r)
	}
	for name, path := range files {
		if sumOf(t, filepath.Join(to, name)) != sumOf(t, path) {
			t.Errorf("%s is another", name)
		}
	}
}

// What is wrong with a key, a repository or a name is said as that.
func TestRefused(t *testing.T) {
	w := newWorld(t, "")
	if _, err := w.do(t.Context(), backupjob.Open, nil); fault.ClassOf(err) != fault.Usage && fault.ClassOf(err) != fault.Source {
		t.Errorf("nothing there: %v", err)
	}
	w.must(t, backupjob.Init, nil)
	if _, err := w.do(t.Context(), backupjob.Init, nil); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "already") {
		t.Errorf("twice: %v", err)
	}
	_, err := w.do(t.Context(), backupjob.Open, func(j *backupjob.Job) { j.Secrets.Key = "another key, of the same" })
	if fault.ClassOf(err) != fault.Usage || strings.Contains(err.Error(), "another key") {
		t.Errorf("another key: %v", err)
	}
	if _, err := w.do(t.Context(), backupjob.Restore, nil); fault.ClassOf(err) != fault.Usage {
		t.Errorf("no backup: %v", err)
	}
	w.backup(t)
	if _, err := w.do(t.Context(), backupjob.Restore, func(j *backupjob.Job) { j.Snapshot = "zzz" }); fault.ClassOf(err) != fault.Usage {
		t.Errorf("no such backup: %v", err)
	}
	// Two devices with a machine of one name.
	w.job.Host = "tablet"
	other := w.backup(t)
	if _, err := w.do(t.Context(), backupjob.Restore, nil); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "2 devices") {
		t.Errorf("two devices: %v", err)
	}
	w.restore(t, other.ID, sumOf(t, w.disk))
}

// A disk that was not of one instant makes no backup.
func TestAbort(t *testing.T) {
	w := newWorld(t, "")
	w.must(t, backupjob.Init, nil)
	j := w.verb(backupjob.Backup, func(j *backupjob.Job) { j.Disk, j.Manifest = w.disk, w.manifest() })
	_, err := Run(t.Context(), j, Talk{Say: yes.Say, Ask: func(context.Context) (backupjob.Answer, error) {
		return backupjob.Answer{Abort: "it was started"}, nil
	}})
	if fault.ClassOf(err) != fault.Device || !strings.Contains(err.Error(), "it was started") {
		t.Errorf("got %v", err)
	}
	if list := w.must(t, backupjob.List, nil).Snapshots; len(list) != 0 {
		t.Errorf("there is %+v", list)
	}
}

func TestDrillReports(t *testing.T) {
	w := newWorld(t, "")
	w.must(t, backupjob.Init, nil)
	s := w.backup(t)
	report := func(passed bool) backup.Drill {
		d := &backup.Drill{Machine: "sql", Snapshot: s.ID, At: time.Now().UTC(), RestoreS: 2, BootS: 3}
		d.Step("read", func() (string, error) { //nolint:errcheck // it stands in the report
			if !passed {
				return "", errors.New("no")
			}
			return "all", nil
		})
		return w.must(t, backupjob.Report, func(j *backupjob.Job) { j.Drill = d }).Drills[0]
	}
	failed := report(false)
	if p := w.must(t, backupjob.List, nil).Snapshots[0].Proven; p != nil {
		t.Errorf("a failed drill has proven %+v", p)
	}
	passed := report(true)
	list := w.must(t, backupjob.List, nil)
	if p := list.Snapshots[0].Proven; p == nil || p.Took != 5 {
		t.Errorf("proven: %+v", p)
	}
	if len(list.Drills) != 2 || passed.Previous != failed.Digest || failed.Previous != "" || list.Drills[1].Digest != passed.Digest {
		t.Errorf("the chain: %+v", list.Drills)
	}
	passed.Passed = !passed.Passed
	if fault.ClassOf(passed.Check()) != fault.Verification {
		t.Error("a changed report was taken")
	}
}

// Old backups go, the proven one stays.
func TestKeep(t *testing.T) {
	w := newWorld(t, "")
	w.must(t, backupjob.Init, nil)
	proven := w.backup(t)
	d := &backup.Drill{Machine: "sql", Snapshot: proven.ID, At: time.Now().UTC()}
	d.Step("read", func() (string, error) { return "", nil }) //nolint:errcheck // it passes
	w.must(t, backupjob.Report, func(j *backupjob.Job) { j.Drill = d })
	var ids []string
	for n := range 4 {
		w.scribble(t, int64(n)<<20, 1000)
		ids = append(ids, w.backup(t).ID)
	}
	r := w.must(t, backupjob.Keep, func(j *backupjob.Job) { j.Rules = &backup.Keep{Latest: 2} })
	if r.Forgotten != 2 {
		t.Errorf("%d were forgotten", r.Forgotten)
	}
	var left []string
	for _, s := range w.must(t, backupjob.List, nil).Snapshots {
		left = append(left, s.ID)
	}
	if !slices.Equal(left, []string{proven.ID, ids[2], ids[3]}) {
		t.Errorf("left are %v, of %v and %v", left, proven.ID, ids)
	}
	w.restore(t, "", sumOf(t, w.disk))
}

// packs are the large files of a repository with the content of disks.
func (w *world) packs(t *testing.T) (list []string) {
	t.Helper()
	for _, path := range w.contents() {
		if info, err := os.Stat(path); err == nil && info.Size() > 1<<20 {
			list = append(list, path)
		}
	}
	if len(list) == 0 {
		t.Fatal("there is no pack")
	}
	return list
}

// contents are the files with the content of disks that are there now.
func (w *world) contents() (list []string) {
	// What is not there any more, or not yet, is none.
	_ = filepath.WalkDir(w.job.Repository, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasPrefix(filepath.ToSlash(strings.TrimPrefix(path, w.job.Repository)), "/p") {
			list = append(list, path)
		}
		return nil
	})
	return list
}

// Whatever is done to a repository is found, and nothing of it is restored.
func TestDamage(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, pack string){
		"a flipped bit": func(t *testing.T, pack string) {
			b, err := os.ReadFile(pack)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 1
			if err := os.WriteFile(pack, b, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"a missing file": func(t *testing.T, pack string) {
			if err := os.Remove(pack); err != nil {
				t.Fatal(err)
			}
		},
		"a short file": func(t *testing.T, pack string) {
			if err := os.Truncate(pack, 1<<20); err != nil {
				t.Fatal(err)
			}
		},
		"zeros at its end": func(t *testing.T, pack string) {
			info, err := os.Stat(pack)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.Truncate(pack, info.Size()/2), os.Truncate(pack, info.Size())); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "")
			w.must(t, backupjob.Init, nil)
			w.backup(t)
			damage(t, w.packs(t)[0])
			_, err := w.do(t.Context(), backupjob.Verify, func(j *backupjob.Job) { j.Percent = 100 })
			if fault.ClassOf(err) != fault.Verification {
				t.Errorf("verify: %v", err)
			}
			to := filepath.Join(t.TempDir(), "restored.img")
			_, err = w.do(t.Context(), backupjob.Restore, func(j *backupjob.Job) { j.Disk = to })
			if fault.ClassOf(err) != fault.Verification {
				t.Errorf("restore: %v", err)
			}
		})
	}
}

// A store that says it has kept what it has not: the backup does not count.
func TestLyingStore(t *testing.T) {
	w := newWorld(t, "")
	w.scribble(t, 4<<20, 45<<20) // more than two packs, so that one is sent while the disk is read
	w.must(t, backupjob.Init, nil)
	j := w.verb(backupjob.Backup, func(j *backupjob.Job) { j.Disk, j.Manifest = w.disk, w.manifest() })
	// When the disk has been read, before the backup is entered, a pack goes.
	dropped := ""
	_, err := Run(t.Context(), j, Talk{Say: yes.Say, Ask: func(ctx context.Context) (backupjob.Answer, error) {
		for ctx.Err() == nil {
			if packs := w.contents(); len(packs) > 0 {
				dropped = packs[0]
				return backupjob.Answer{}, os.Remove(dropped)
			}
			time.Sleep(time.Millisecond)
		}
		return backupjob.Answer{}, ctx.Err()
	}})
	if fault.ClassOf(err) != fault.Verification {
		t.Errorf("a backup without %s counts: %v", filepath.Base(dropped), err)
	}
}

// Ended anywhere in the middle there is no backup, and the next one finds what
// was sent.
func TestCancelled(t *testing.T) {
	w := newWorld(t, "")
	w.must(t, backupjob.Init, nil)
	for _, after := range []int64{1, 3 << 20, 6 << 20} {
		ctx, cancel := context.WithCancel(t.Context())
		j := w.verb(backupjob.Backup, func(j *backupjob.Job) { j.Disk, j.Manifest = w.disk, w.manifest() })
		_, err := Run(ctx, j, Talk{Ask: yes.Ask, Say: func(s backupjob.Said) {
			if s.Done >= after {
				cancel()
			}
		}})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("after %d: %v", after, err)
		}
		if list := w.must(t, backupjob.List, nil).Snapshots; len(list) != 0 {
			t.Fatalf("after %d there is %+v", after, list)
		}
	}
	w.restore(t, w.backup(t).ID, sumOf(t, w.disk))
}

// A full disk is one of this machine's, and leaves nothing that looks whole.
func TestNoRoom(t *testing.T) {
	if err := roomFor(filepath.Join(t.TempDir(), "x"), 1<<60); fault.ClassOf(err) != fault.Environment {
		t.Errorf("got %v", err)
	}
}

func TestSparse(t *testing.T) {
	var got bytes.Buffer
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := make([]byte, 1<<20)
	for _, at := range []int{0, 70_000, 1<<20 - 1} {
		want[at] = 1
	}
	if err := errors.Join(f.Truncate(1<<20), writeSparse(f, want, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := got.ReadFrom(f); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("it is another, %v", err)
	}
}
