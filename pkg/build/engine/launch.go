package engine

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/remedy"
)

// elsewhere adds the way out when this machine cannot run an engine.
func elsewhere(err *fault.Error) error {
	err.Hint += ", or use an engine elsewhere"
	return remedy.By(remedy.Remedy{Kind: remedy.UseEngine}, err)
}

// host is what launching looks at on this machine; tests give their own.
type host struct {
	root string // "/" but in tests
	uid  int
	user string
	look func(name string) (string, error)
}

func thisHost() host {
	h := host{root: "/", uid: os.Getuid(), look: lookTool}
	// $USER may be unset, or another's after su. An unknown user has a number.
	if u, err := user.Current(); err == nil {
		h.user = u.Username
	}
	return h
}

// lookTool is exec.LookPath that also knows the directories Debian keeps out
// of an ordinary user's PATH.
func lookTool(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return filepath.Abs(path)
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", err
}

// runtime finds the OCI runtime.
func (h host) runtime() (string, error) {
	for _, name := range []string{"buildkit-runc", "runc"} {
		if path, err := h.look(name); err == nil {
			return path, nil
		}
	}
	return "", elsewhere(fault.Errorf(fault.Environment, "the private build engine needs runc, which is not installed").
		Hintf("install it with apt-get install runc"))
}

// rootless finds rootlesskit, or says everything that keeps a user who is not
// root from running an engine here.
func (h host) rootless() (string, error) {
	var missing, packages []string
	need := func(tool, pkg string) string {
		path, err := h.look(tool)
		if err != nil {
			missing = append(missing, tool+" is not installed")
			if len(packages) == 0 || packages[len(packages)-1] != pkg {
				packages = append(packages, pkg)
			}
		}
		return path
	}
	kit := need("rootlesskit", "rootlesskit")
	need("newuidmap", "uidmap")
	need("newgidmap", "uidmap")
	for _, file := range []string{"etc/subuid", "etc/subgid"} {
		ok, err := h.subordinate(file)
		if err != nil {
			return "", err
		}
		if !ok {
			missing = append(missing, fmt.Sprintf("/%s gives %s no ids", file, h.name()))
		}
	}
	for file, bad := range map[string]string{
		"proc/sys/kernel/unprivileged_userns_clone":             "0",
		"proc/sys/user/max_user_namespaces":                     "0",
		"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1",
	} {
		if text, err := os.ReadFile(filepath.Join(h.root, file)); err == nil && strings.TrimSpace(string(text)) == bad {
			missing = append(missing, fmt.Sprintf("user namespaces are off (/%s is %s)", file, bad))
		}
	}
	if len(missing) == 0 {
		return kit, nil
	}
	hint := "have these mended by an administrator"
	if len(packages) > 0 {
		hint = "install what is missing with apt-get install " + strings.Join(packages, " ")
	}
	return "", elsewhere(fault.Errorf(fault.Environment, "no build engine without root on this machine: %s", strings.Join(missing, "; ")).
		Hintf("%s, run as root", hint))
}

func (h host) name() string {
	if h.user != "" {
		return h.user
	}
	return fmt.Sprintf("uid %d", h.uid)
}

// subordinate tells whether /etc/subuid or /etc/subgid has ids for the user,
// see subuid(5).
func (h host) subordinate(file string) (bool, error) {
	f, err := os.Open(filepath.Join(h.root, file))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, _, _ := strings.Cut(lines.Text(), ":")
		if name == fmt.Sprint(h.uid) || name == h.user && name != "" {
			return true, nil
		}
	}
	return false, lines.Err()
}

// nest is run as root in new mount and pid namespaces and becomes buildkitd.
// The kernel ends a pid namespace with its first process and a mount namespace
// with its last: so a buildkitd that ends in whatever way takes every step's
// processes and every snapshot's mount with it, and recovery has nothing to
// clean up. rslave lets the host's unmounts through, so the engine never keeps
// a disk of the host busy. The runtime's state directory is private as well,
// else a killed engine's containers stayed listed in the host's.
const nest = `mount --make-rslave /
mount -t proc proc /proc
mkdir -p /run/runc
mount -t tmpfs -o mode=0700 tmpfs /run/runc
exec "$@"`

// temporary is the daemon's directory of mount points, in its state directory,
// which is removed with the daemon: BuildKit 0.34 leaves some of them behind.
const temporary = "tmp"

// command builds the daemon's command line. Sockets is the directory of its
// socket, whose path is short enough for rootlesskit's as well.
func (h host) command(buildkitd, config, state, sockets string) (*exec.Cmd, error) {
	args := []string{buildkitd, "--config", config}
	attr := &syscall.SysProcAttr{Setsid: true} // Ctrl-C at a terminal is for us; we stop the engine in order
	if h.uid == 0 {
		args = append([]string{"/bin/sh", "-eu", "-c", nest, "sh"}, args...)
		attr.Cloneflags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS
	} else {
		kit, err := h.rootless()
		if err != nil {
			return nil, err
		}
		// Steps have no network; the daemon needs none of its own either.
		args = append([]string{kit, "--state-dir=" + filepath.Join(sockets, "rootlesskit"), "--net=host", "--pidns",
			"--copy-up=/etc", "--copy-up=/run", "--propagation=rslave"}, append(args, "--rootless")...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = state
	cmd.SysProcAttr = attr
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + state,
		"XDG_RUNTIME_DIR=" + state,
		"USER=" + h.user,
		"TMPDIR=" + filepath.Join(state, temporary),
		// BuildKit cuts step logs at 2 MiB and 200 KiB/s unless told not to.
		"BUILDKIT_STEP_LOG_MAX_SIZE=-1",
		"BUILDKIT_STEP_LOG_MAX_SPEED=-1",
	}
	return cmd, nil
}
