package vault

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"golang.org/x/net/webdav"

	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// there takes a store through all that is done with one.
func (w *world) there(t *testing.T) {
	t.Helper()
	w.must(t, backupjob.Init, nil)
	w.keeps(t)
}

// keeps makes two backups in a repository, and restores both elsewhere.
func (w *world) keeps(t *testing.T) {
	t.Helper()
	first, sum1 := w.backup(t), sumOf(t, w.disk)
	w.scribble(t, 31<<20, 10_000)
	second, sum2 := w.backup(t), sumOf(t, w.disk)
	if second.Stored > 1<<20 {
		t.Errorf("10 kB took %d bytes", second.Stored)
	}
	// Another device, with nothing in a cache.
	w.job.Dir = filepath.Join(t.TempDir(), "elsewhere")
	w.must(t, backupjob.Verify, func(j *backupjob.Job) { j.Percent = 100 })
	w.restore(t, first.ID, sum1)
	w.restore(t, second.ID, sum2)
}

func TestS3(t *testing.T) {
	backend := s3mem.New()
	if err := backend.CreateBucket("backups"); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(gofakes3.New(backend).Server())
	defer s.Close()
	w := newWorld(t, "s3://key-id@"+s.Listener.Addr().String()+"/backups/phone?tls=no&region=us-east-1")
	w.job.Secrets.Secret = "a secret access key"
	w.there(t)
	s.Close()
	_, err := w.do(t.Context(), backupjob.List, nil)
	if fault.ClassOf(err) != fault.Source || strings.Contains(err.Error(), "secret access") {
		t.Errorf("a store that is gone: %v", err)
	}
}

func TestWebDAV(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "backups"), 0o700); err != nil {
		t.Fatal(err)
	}
	dav := &webdav.Handler{FileSystem: webdav.Dir(dir), LockSystem: webdav.NewMemLS()}
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "a password" {
			rw.Header().Set("WWW-Authenticate", "Basic")
			http.Error(rw, "no", http.StatusUnauthorized)
			return
		}
		dav.ServeHTTP(rw, r)
	}))
	defer s.Close()
	w := newWorld(t, "webdav://me@"+s.Listener.Addr().String()+"/backups")
	w.job.Secrets.Secret = "a password"
	w.there(t)
}

// TestSFTP is against Debian's sshd, which make bin/debian-sshd unpacks.
func TestSFTP(t *testing.T) {
	sshd, err := filepath.Abs("../../../bin/debian-sshd")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(sshd); err != nil || os.Getuid() != 0 {
		t.Skip("it needs root, and make bin/debian-sshd")
	}
	s := startSSHD(t, sshd)
	w := newWorld(t, fmt.Sprintf("sftp://root@127.0.0.1:%d%s", s.port, filepath.Join(s.dir, "backups")))
	w.job.Secrets.Identity, w.job.Secrets.KnownHosts = s.identity, s.knownHosts
	if err := os.Mkdir(filepath.Join(s.dir, "backups"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.there(t)
	// Another host at its address is not spoken to.
	w.job.Secrets.KnownHosts = s.others
	if _, err := w.do(t.Context(), backupjob.List, nil); err == nil {
		t.Error("a host that is not known was trusted")
	}
}

type sshServer struct {
	dir, identity, knownHosts, others string
	port                              int
}

// startSSHD starts sshd for root with a key of the test's, at loopback.
func startSSHD(t *testing.T, sshd string) sshServer {
	t.Helper()
	s := sshServer{dir: t.TempDir(), port: freePort(t)}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, key := range []string{"host", "other", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(s.dir, key)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	s.identity = read("user")
	known := func(key string) string { return fmt.Sprintf("[127.0.0.1]:%d %s", s.port, read(key+".pub")) }
	s.knownHosts, s.others = known("host"), known("other")
	config := fmt.Sprintf("Port %d\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %[2]s/user.pub\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n", s.port, s.dir)
	files := map[string]string{"sshd_config": config,
		"passwd": "root:x:0:0::/root:/bin/sh\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\n", "shadow": "root:*:19000::::::\nsshd:*:19000::::::\n"}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	script := fmt.Sprintf(`set -e
mount --make-rprivate /
mount -t tmpfs none /run; mkdir /run/sshd; chmod 755 /run
mount --bind %[1]s/passwd /etc/passwd
mount --bind %[1]s/shadow /etc/shadow
! test -d %[2]s/usr/lib/openssh || { mkdir -p /usr/lib/openssh; mount --bind %[2]s/usr/lib/openssh /usr/lib/openssh; }
lib=$(echo %[2]s/usr/lib/*-linux-gnu)
LD_LIBRARY_PATH=$lib exec %[2]s/usr/sbin/sshd -D -e -f %[1]s/sshd_config
`, s.dir, sshd)
	cmd := exec.Command("unshare", "--mount", "sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		waitErr := cmd.Wait()
		if t.Failed() {
			t.Logf("sshd: %v, %v: %s", err, waitErr, said.String())
		}
	})
	for deadline := time.Now().Add(time.Minute); ; {
		c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(s.port))
		if err == nil {
			c.Close()
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("sshd does not listen: %v: %s", err, said.String())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// TestStockKopia has the program kopia, as its authors made it, list, verify and
// restore what was backed up; make bin/kopia builds it.
func TestStockKopia(t *testing.T) {
	program, err := filepath.Abs("../../../bin/kopia")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Skip("it needs make bin/kopia")
	}
	w := newWorld(t, "")
	w.must(t, backupjob.Init, nil)
	bundle := filepath.Join(t.TempDir(), "manifest.json")
	if err := os.WriteFile(bundle, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := w.must(t, backupjob.Backup, func(j *backupjob.Job) {
		j.Disk, j.Manifest, j.BundleManifest = w.disk, w.manifest(), bundle
		j.BundleFiles = map[string]string{"manifest.json": bundle}
	}).Snapshots[0]
	home := t.TempDir()
	kopia := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(program, append([]string{"--config-file", filepath.Join(home, "kopia.config"), "--log-dir", filepath.Join(home, "logs")}, args...)...)
		cmd.Env = append(os.Environ(), "KOPIA_PASSWORD="+testKey, "HOME="+home, "KOPIA_CHECK_FOR_UPDATES=false")
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("kopia %s: %v: %s%s", strings.Join(args, " "), err, out.String(), errs.String())
		}
		return out.String() + errs.String()
	}
	// Maintenance is its owner's, who is the machine.
	kopia("repository", "connect", "filesystem", "--path", w.job.Repository, "--cache-directory", filepath.Join(home, "cache"),
		"--override-username", "sovereign", "--override-hostname", "phone")
	list := kopia("snapshot", "list", "--all", "--show-identical", "--tags", "machine:sql", "--json")
	if !strings.Contains(list, s.ID) || !strings.Contains(list, "sovereign") {
		t.Errorf("listed: %s", list)
	}
	kopia("snapshot", "verify", "--verify-files-percent=100")
	kopia("content", "verify", "--download-percent=100")
	// The root object's ID.
	_, rest, ok := strings.Cut(list, `"obj":"`)
	root, _, end := strings.Cut(rest, `"`)
	if !ok || !end {
		t.Fatalf("no root in %s", list)
	}
	to := filepath.Join(t.TempDir(), "all")
	kopia("restore", root, to)
	if sumOf(t, filepath.Join(to, "data.img")) != sumOf(t, w.disk) {
		t.Error("kopia restored another disk")
	}
	if sumOf(t, filepath.Join(to, "bundle", "manifest.json")) != sumOf(t, bundle) {
		t.Error("kopia restored another bundle")
	}
	if _, err := os.Stat(filepath.Join(to, "machine.json")); err != nil {
		t.Error(err)
	}
	// And what it has done leaves the repository as it was to us.
	kopia("maintenance", "run", "--full")
	w.restore(t, s.ID, sumOf(t, w.disk))
}
