package backups

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/backupjob"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// stored is a repository's file.
type stored struct {
	Schema  int            `json:"schema"`
	URL     string         `json:"url"`
	Added   time.Time      `json:"added"`
	Secrets backup.Secrets `json:"secrets"`
}

// maxStored bounds such a file, in bytes.
const maxStored = 1 << 20

func (m *Manager) repositoryFile(name string) string {
	return filepath.Join(m.r.Dir(), repositoriesDir, name+".json")
}

// Repositories are those of the device, sorted.
func (m *Manager) Repositories() ([]backup.Repository, error) {
	entries, err := os.ReadDir(filepath.Join(m.r.Dir(), repositoriesDir)) // sorted
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	list := []backup.Repository{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || backup.CheckName(name) != nil {
			continue
		}
		s, err := m.load(name)
		if err != nil {
			return nil, err
		}
		list = append(list, backup.Repository{Name: name, URL: s.URL})
	}
	return list, nil
}

func (m *Manager) load(name string) (stored, error) {
	var s stored
	if err := backup.CheckName(name); err != nil {
		return s, err
	}
	path := m.repositoryFile(name)
	text, err := readBounded(path, maxStored)
	if errors.Is(err, fs.ErrNotExist) {
		return s, fault.Errorf(fault.Usage, "there is no repository %q on this device", name).
			Hintf("see them: sovereign-build repository list; or make one: sovereign-build repository init")
	}
	if err != nil {
		return s, err
	}
	if err = decode(path, text, &s); err == nil && s.Schema != 1 {
		err = fault.Errorf(fault.Environment, "%s: schema %d is not one that this program reads", path, s.Schema).Hintf("use the version of this program that wrote it")
	}
	return s, err
}

func readBounded(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	if info.Size() > limit {
		return nil, fault.Errorf(fault.Environment, "%s is larger than %d bytes", path, limit)
	}
	text, err := os.ReadFile(path)
	return text, fault.Wrap(fault.Environment, err)
}

// choose is the repository of that name, or of an empty one the machine's
// policy's, or the only one that there is.
func (m *Manager) choose(name string, state State) (string, stored, error) {
	if name == "" && state.Policy != nil {
		name = state.Policy.Repository
	}
	if name == "" {
		list, err := m.Repositories()
		switch {
		case err != nil:
			return "", stored{}, err
		case len(list) == 0:
			return "", stored{}, fault.Errorf(fault.Usage, "this device has no repository").
				Hintf("make one: sovereign-build repository init NAME URL; or add one that is there: repository add")
		case len(list) > 1:
			return "", stored{}, fault.Errorf(fault.Usage, "this device has %d repositories", len(list)).
				Hintf("name one with --to or --from; sovereign-build repository list has their names")
		}
		name = list[0].Name
	}
	s, err := m.load(name)
	return name, s, err
}

// AddRepository makes a repository known, or makes it at all, and returns the
// key, which is made where none was given.
func (m *Manager) AddRepository(ctx context.Context, r backup.Repository, s backup.Secrets, initialize bool) (key string, err error) {
	if err := backup.CheckName(r.Name); err != nil {
		return "", err
	}
	l, err := backup.ParseURL(r.URL)
	if err != nil {
		return "", err
	}
	if s.Key == "" && initialize {
		s.Key = newKey()
	}
	if err := s.Check(l); err != nil {
		return "", err
	}
	release, err := m.hold("repository " + r.Name)
	if err != nil {
		return "", err
	}
	defer release()
	if _, err := os.Lstat(m.repositoryFile(r.Name)); err == nil {
		return "", fault.Errorf(fault.Usage, "this device has a repository %s already", r.Name).Hintf("choose another name, or forget that one: sovereign-build repository forget %s", r.Name)
	}
	file := stored{Schema: 1, URL: r.URL, Added: time.Now().UTC().Truncate(time.Second), Secrets: s}
	j := m.job(r.Name, file, backupjob.Open)
	if initialize {
		j.Verb = backupjob.Init
	}
	if _, err := m.run(ctx, j, talk{}); err != nil {
		return "", err
	}
	return s.Key, atomicfile.Write(m.repositoryFile(r.Name), encode(file), 0o600)
}

// ForgetRepository has the device not know a repository any more. Nothing in it
// changes.
func (m *Manager) ForgetRepository(name string) error {
	release, err := m.hold("repository " + name)
	if err != nil {
		return err
	}
	defer release()
	if _, err := m.load(name); err != nil {
		return err
	}
	users, err := m.usersOf(name)
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return fault.Errorf(fault.Usage, "%s goes to the repository %s by its policy", strings.Join(users, ", "), name).
			Hintf("end that first: sovereign-build backup policy %s --off", users[0])
	}
	if err := os.Remove(m.repositoryFile(name)); err != nil {
		return fault.Wrap(fault.Environment, err)
	}
	if err := atomicfile.SyncDir(filepath.Join(m.r.Dir(), repositoriesDir)); err != nil {
		return err
	}
	return fault.Wrap(fault.Environment, os.RemoveAll(m.jobDir(name)))
}

// newKey has 160 random bits, in groups that can be read out.
func newKey() string {
	b := make([]byte, 20)
	rand.Read(b) //nolint:errcheck // it never fails
	text := base32.StdEncoding.EncodeToString(b)
	var groups []string
	for ; text != ""; text = text[4:] {
		groups = append(groups, text[:4])
	}
	return strings.Join(groups, "-")
}

func (m *Manager) jobDir(repository string) string {
	return filepath.Join(m.r.Dir(), jobsDir, repository)
}

// job begins a job in a repository.
func (m *Manager) job(name string, s stored, verb backupjob.Verb) backupjob.Job {
	return backupjob.Job{Verb: verb, Repository: s.URL, Secrets: s.Secrets, Dir: m.jobDir(name), Host: m.host}
}
