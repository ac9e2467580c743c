package services

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/proc"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/spec"
)

// reloadLimit is how long a reload command may take.
const reloadLimit = 2 * time.Minute

// reloadMark is the file that says that a reload command has not succeeded
// since a secret was written. It lies beside the secrets, whose names begin
// with no dot.
const reloadMark = ".reload"

// errRestart ends a cycle on request.
var errRestart = errors.New("restart asked for")

// change is what another goroutine asks of the one that drives a service.
type change struct {
	reload bool // else restart
	answer chan error
}

// ask hands a change to the service and waits for its answer. A service that
// is not running yet takes it by starting.
func (n *service) ask(ctx context.Context, reload bool) error {
	c := change{reload, make(chan error, 1)}
	select {
	case n.changes <- c:
	case <-n.stopped:
		return fmt.Errorf("service %s: the guest is stopping", n.spec.Name)
	case <-ctx.Done():
		return fmt.Errorf("service %s: is busy with its setup or its end: %w: try again later", n.spec.Name, ctx.Err())
	}
	select {
	case err := <-c.answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Restart ends a service in order; it starts again by itself, and at once. It
// returns when the service has taken note.
func (s *Manager) Restart(ctx context.Context, name string) error {
	n, ok := s.byName[name]
	if !ok {
		return unknownService(name)
	}
	return n.ask(ctx, false)
}

// SetSecret replaces the value of a secret that the spec declares, and has the
// service take it up: by its reload command, or else by a restart. When the
// command fails, the old value is put back, and the service is told again.
func (s *Manager) SetSecret(ctx context.Context, service, name, value string) error {
	return s.setSecret(ctx, service, name, func(spec.Secret) (string, error) { return value, nil })
}

// RotateSecret does so with a new generated value.
func (s *Manager) RotateSecret(ctx context.Context, service, name string) error {
	return s.setSecret(ctx, service, name, func(x spec.Secret) (string, error) {
		if x.Given {
			return "", fmt.Errorf("secret %q of service %q is given by its owner, and never generated: set it instead: %w", name, service, fs.ErrInvalid)
		}
		return generate(x)
	})
}

func (s *Manager) setSecret(ctx context.Context, service, name string, value func(spec.Secret) (string, error)) error {
	n, x, err := s.secret(service, name)
	if err != nil {
		return err
	}
	v, err := value(x)
	if err != nil {
		return err
	}
	done, err := n.change(ctx)
	if err != nil {
		return err
	}
	defer done()
	user, err := s.account(n.spec.User)
	if err != nil {
		return err
	}
	if err := makeSecretsDir(n.secretsDir(), user); err != nil {
		return err
	}
	path := filepath.Join(n.secretsDir(), name)
	old, oldErr := readSecret(path)
	if len(n.spec.Reload) > 0 {
		if err := n.markReload(); err != nil {
			return err
		}
	}
	if err := writeFile(path, v, 0o600, user); err != nil {
		return err
	}
	s.opts.Note(fmt.Sprintf("%s: secret %s was changed", service, name))
	err = n.ask(ctx, len(n.spec.Reload) > 0)
	var failed *reloadError
	if !errors.As(err, &failed) || oldErr != nil {
		return err
	}
	if backErr := writeFile(path, old, 0o600, user); backErr != nil {
		return errors.Join(err, backErr)
	}
	// The service may have taken the new value up before its command failed.
	// Should it not take the old one back, that is tried again until it does.
	if n.ask(ctx, true) != nil {
		return fmt.Errorf("%w; the former value is put back, and the service does not take that up either: it is tried again", err)
	}
	return err
}

// change waits until no other secret of the service is being changed; done lets
// the next one begin.
func (n *service) change(ctx context.Context) (done func(), err error) {
	select {
	case n.changing <- struct{}{}:
		return func() { <-n.changing }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("service %s: a secret of it is being changed: %w: try again later", n.spec.Name, ctx.Err())
	}
}

// secret finds a secret of the spec.
func (s *Manager) secret(service, name string) (*service, spec.Secret, error) {
	if n, ok := s.byName[service]; ok {
		for _, x := range n.spec.Secrets {
			if x.Name == name {
				return n, x, nil
			}
		}
	}
	return nil, spec.Secret{}, unknownSecret(service, name)
}

// Secret returns the value of a secret that the spec declares, or the
// certificate NAME.crt. Keys of certificates stay in the guest. A change that
// is under way is waited for; a value that the service has not taken up is of
// no use, and is an error that says why.
func (s *Manager) Secret(ctx context.Context, service, name string) (string, error) {
	v, err := s.value(service, name)
	if n, _, unknown := s.secret(service, name); unknown == nil && n.pendingReload() {
		if err := n.settle(ctx); err != nil {
			return "", fmt.Errorf("secret %q of service %q: %w", name, service, err)
		}
		return s.value(service, name)
	}
	return v, err
}

// value reads a secret or a certificate.
func (s *Manager) value(service, name string) (string, error) {
	if n, ok := s.byName[service]; ok {
		for _, c := range n.spec.Certificates {
			if name == c.Name+".crt" {
				return readSecret(filepath.Join(n.secretsDir(), name))
			}
		}
	}
	n, x, err := s.secret(service, name)
	if err != nil {
		return "", err
	}
	v, err := readSecret(filepath.Join(n.secretsDir(), name))
	// A service that needs a given secret no more empties its file.
	if x.Given && (errors.Is(err, fs.ErrNotExist) || err == nil && v == "") {
		return "", fmt.Errorf("secret %q of service %q: %w: it was not handed over yet, or is no longer kept", name, service, fs.ErrNotExist)
	}
	return v, err
}

// settle waits for a change that is under way. It is an error if the service
// goes by a former secret after that.
func (n *service) settle(ctx context.Context) error {
	done, err := n.change(ctx)
	if err != nil {
		return err
	}
	done()
	if n.pendingReload() {
		return fmt.Errorf("it is a new one, which the service has not taken up yet%s", n.whyStale())
	}
	return nil
}

func unknownSecret(service, name string) error {
	return fmt.Errorf("secret %q of service %q: %w: the recipe declares none of that name", name, service, fs.ErrNotExist)
}

func unknownService(name string) error {
	return fmt.Errorf("service %q: %w: see the status for the names", name, fs.ErrNotExist)
}

// reloadError is a reload command that ran and failed.
type reloadError struct{ text string }

func (e *reloadError) Error() string { return e.text }

// reload runs the service's reload command.
func (n *service) reload(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reloadLimit)
	defer cancel()
	r, err := n.manager.opts.Procs.Output(ctx, n.attr(n.spec.Reload, n.manager.opts.Machine()))
	if err != nil {
		return &reloadError{fmt.Sprintf("%s: reload: %v", n.spec.Name, err)}
	}
	if r.Status != 0 {
		return &reloadError{fmt.Sprintf("%s: reload: %s: %s", n.spec.Name, proc.Describe(r.Status), r.Text())}
	}
	n.mu.Lock()
	was := n.stale
	n.stale = ""
	n.mu.Unlock()
	if was != "" {
		n.manager.opts.Changed()
	}
	return n.unmarkReload()
}

// pendingReload says whether a secret changed without a reload.
func (n *service) pendingReload() bool {
	return len(n.spec.Reload) > 0 && exists(filepath.Join(n.secretsDir(), reloadMark))
}

// reloadPending reloads if a secret changed without a reload: the power may
// have gone between the two, or the reload failed. It is tried when the service
// gets healthy, and as long as it fails once an interval; why it failed is a
// warning meanwhile. A change that is under way has its mark too, and is left
// to whoever makes it.
func (n *service) reloadPending(ctx context.Context) {
	if !n.pendingReload() {
		return
	}
	select {
	case n.changing <- struct{}{}:
		defer func() { <-n.changing }()
	default:
		return
	}
	if n.isHealthy() && time.Since(n.reloadTried) < n.interval() {
		return
	}
	if err := n.reload(ctx); err != nil && ctx.Err() == nil {
		n.becomeStale(err)
	}
	n.reloadTried = time.Now()
}

// becomeStale notes why the service goes by a former secret.
func (n *service) becomeStale(err error) {
	text := "it has not taken up a secret that was changed, and is told again: " + firstLine(strings.Join(strings.Fields(err.Error()), " "))
	n.mu.Lock()
	news := n.stale != text
	n.stale = text
	n.mu.Unlock()
	if news {
		n.manager.opts.Changed()
		n.manager.opts.Note(n.spec.Name + ": warning: " + text)
	}
}

// whyStale is the reason for an error's text, where one is known.
func (n *service) whyStale() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stale == "" {
		return ": try again in a moment"
	}
	return ": " + n.stale
}

func (n *service) markReload() error {
	return writeFile(filepath.Join(n.secretsDir(), reloadMark), "", 0o600, account{uid: os.Getuid(), gid: os.Getgid()})
}

func (n *service) unmarkReload() error {
	err := os.Remove(filepath.Join(n.secretsDir(), reloadMark))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// takeChange does what was asked while the program runs. It says whether the
// program is to be restarted.
func (n *service) takeChange(ctx context.Context, c change) (restart bool) {
	if c.reload {
		c.answer <- n.reload(ctx)
		return false
	}
	c.answer <- nil
	return true
}

// firstLine returns the first line of a text, at most 500 bytes.
func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	const most = 500
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return strings.TrimSpace(s)
}
