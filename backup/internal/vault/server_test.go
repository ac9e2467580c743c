package vault

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// kopiaServer is the stock kopia as a server of one repository, with a user who
// may add and not remove; make bin/kopia builds it.
type kopiaServer struct {
	program, home, url string
	said               bytes.Buffer
}

const (
	userPassword = "the password of one user"
	serverKey    = "the server's own"
)

// kopia runs the program on the repository itself, as its owner does.
func (s *kopiaServer) kopia(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.command(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("kopia %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (s *kopiaServer) command(args ...string) *exec.Cmd {
	cmd := exec.Command(s.program, append([]string{"--config-file", filepath.Join(s.home, "kopia.config"), "--log-dir", filepath.Join(s.home, "logs")}, args...)...)
	cmd.Env = append(os.Environ(), "KOPIA_PASSWORD="+serverKey, "HOME="+s.home, "KOPIA_CHECK_FOR_UPDATES=false")
	return cmd
}

func startKopia(t *testing.T) *kopiaServer {
	t.Helper()
	program, err := filepath.Abs("../../../bin/kopia")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Skip("it needs make bin/kopia")
	}
	s := &kopiaServer{program: program, home: t.TempDir()}
	s.kopia(t, "repository", "create", "filesystem", "--path", filepath.Join(s.home, "repository"), "--cache-directory", filepath.Join(s.home, "cache"))
	s.kopia(t, "server", "users", "add", "phone@home", "--user-password", userPassword)
	s.kopia(t, "server", "users", "add", "other@home", "--user-password", userPassword)
	s.kopia(t, "server", "acl", "enable")
	s.kopia(t, "server", "acl", "add", "--user", "*@*", "--target", "type=snapshot,username=OWN_USER,hostname=OWN_HOST", "--access", "APPEND", "--overwrite")
	s.kopia(t, "server", "acl", "add", "--user", "*@*", "--target", "type=policy,username=OWN_USER,hostname=OWN_HOST", "--access", "READ", "--overwrite")

	certificate, fingerprint := newCertificate(t, s.home)
	port := freePort(t)
	cmd := s.command("server", "start", "--address", fmt.Sprintf("127.0.0.1:%d", port), "--no-ui",
		"--tls-cert-file", certificate, "--tls-key-file", certificate, "--random-password")
	cmd.Stdout, cmd.Stderr = &s.said, &s.said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		killErr := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		err := <-ended
		if t.Failed() {
			t.Logf("kopia: %v, %v: %s", killErr, err, s.said.String())
		}
	})
	for {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
			break
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("the server ended: %v: %s", err, s.said.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
	s.url = fmt.Sprintf("kopia://phone%%40home@127.0.0.1:%d?fingerprint=%s", port, fingerprint)
	return s
}

// newCertificate makes a file with a key and a certificate of it for loopback.
func newCertificate(t *testing.T, dir string) (path, fingerprint string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
	path = filepath.Join(dir, "server.pem")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	return path, hex.EncodeToString(sum[:])
}

// TestKopiaServer backs up to kopia's own server as a user who may add and not
// remove: whoever takes the device cannot take its backups away.
func TestKopiaServer(t *testing.T) {
	s := startKopia(t)
	w := newWorld(t, s.url)
	w.job.Secrets.Key = userPassword
	if _, err := w.do(t.Context(), backupjob.Init, nil); fault.ClassOf(err) != fault.Usage {
		t.Errorf("a server's repository was made from here: %v", err)
	}
	w.must(t, backupjob.Open, nil)
	w.keeps(t)

	// The rules of the device are not the server's.
	r := w.must(t, backupjob.Keep, func(j *backupjob.Job) { j.Rules = &backup.Keep{Latest: 1} })
	if list := w.must(t, backupjob.List, nil).Snapshots; len(list) != 2 || r.Forgotten != 0 {
		t.Errorf("%d backups are left, %d forgotten", len(list), r.Forgotten)
	}
	// Another user sees none of them.
	other := *w
	other.job.Repository = strings.Replace(s.url, "phone%40", "other%40", 1)
	other.job.Dir = filepath.Join(t.TempDir(), "other")
	if list := other.must(t, backupjob.List, nil).Snapshots; len(list) != 0 {
		t.Errorf("another user sees %d", len(list))
	}
	// Words for what is wrong.
	wrong := *w
	wrong.job.Secrets.Key = "another's password"
	if _, err := wrong.do(t.Context(), backupjob.List, nil); fault.ClassOf(err) != fault.Usage || !strings.Contains(err.Error(), "password") {
		t.Errorf("a wrong password: %v (class %v)", err, fault.ClassOf(err))
	}
	wrong = *w
	wrong.job.Repository = s.url[:len(s.url)-64] + strings.Repeat("0", 64)
	if _, err := wrong.do(t.Context(), backupjob.List, nil); fault.ClassOf(err) != fault.Verification {
		t.Errorf("a server with another certificate: %v (class %v)", err, fault.ClassOf(err))
	}
	// And its owner's program has them.
	if list := s.kopia(t, "snapshot", "list", "--all", "--show-identical"); !strings.Contains(list, "phone@home") {
		t.Error(list)
	}
}
