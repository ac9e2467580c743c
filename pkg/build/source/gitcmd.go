package source

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sovereign-build/sovereign/pkg/build/lock"
	"github.com/sovereign-build/sovereign/pkg/build/store"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
)

// maxRefs bounds what a repository lists of its branches and tags, bytes.
const maxRefs = 64 << 20

// gitIn makes a command of git in a directory, which may be "". It asks nothing
// of a terminal, and follows https and ssh only.
func gitIn(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	// A program that git itself runs, as a hook is, has these set for another
	// repository.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains([]string{"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_NAMESPACE"}, name)
	})
	cmd.Env = append(cmd.Env, "LC_ALL=C", "GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL=https:http:ssh", "GIT_NO_REPLACE_OBJECTS=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// git runs a command to its end and gives what it prints to read.
func git(ctx context.Context, dir string, limit int64, args ...string) ([]byte, error) {
	cmd := gitIn(ctx, dir, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fault.Errorf(fault.Environment, "git: %w", err).Hintf("install git")
	}
	text, readErr := io.ReadAll(io.LimitReader(out, limit+1))
	_, _ = io.Copy(io.Discard, out) // or git would wait for a reader
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, fault.Errorf(fault.Source, "git %s: %s", args[0], gitErrors(stderr.String(), err))
	case readErr != nil:
		return nil, fault.Wrap(fault.Environment, readErr)
	case int64(len(text)) > limit:
		return nil, fault.Errorf(fault.Source, "git %s: more than %d bytes", args[0], limit)
	}
	return text, nil
}

// gitErrors picks the lines of git's that say what is wrong.
func gitErrors(stderr string, err error) string {
	var out []string
	for line := range strings.Lines(stderr) {
		for _, prefix := range []string{"fatal: ", "error: ", "remote: "} {
			if text, ok := strings.CutPrefix(line, prefix); ok {
				out = append(out, strings.TrimSpace(text))
			}
		}
	}
	if len(out) == 0 {
		return err.Error()
	}
	return strings.Join(out, "; ")
}

// gitRefs are the commits that the repository's refs of a pattern name, by the
// refs' whole names; a tag with a message stands for the commit behind it.
func (f *Fetcher) gitRefs(ctx context.Context, url, pattern string) (refs map[string]string, err error) {
	err = f.eachPlace(ctx, url, func(place string) error {
		out, err := git(ctx, "", maxRefs, "ls-remote", "--", place, pattern)
		if err != nil {
			return err
		}
		refs = parseRefs(string(out))
		return nil
	})
	return refs, err
}

// parseRefs reads what git ls-remote prints.
func parseRefs(text string) map[string]string {
	refs := map[string]string{}
	peeled := map[string]string{}
	for line := range strings.Lines(text) {
		commit, ref, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if !ok || !lock.ValidCommit(commit) {
			continue
		}
		if tag, ok := strings.CutSuffix(ref, "^{}"); ok {
			peeled[tag] = commit
		} else {
			refs[ref] = commit
		}
	}
	for tag, commit := range peeled {
		refs[tag] = commit
	}
	return refs
}

// gitTree is the tree of a commit, with its contents until close.
type gitTree struct {
	tree  *rootfs.Tree
	date  time.Time // of the commit, by its committer
	close func()
}

// commitTree fetches one commit, without those before it where the server
// gives that, and reads its tree, below a directory named name.
func (f *Fetcher) commitTree(ctx context.Context, name, url, commit string) (t *gitTree, err error) {
	dir, err := os.MkdirTemp(filepath.Join(f.cache, "tmp"), "git-")
	if err != nil {
		return nil, store.FullDisk(f.cache, err)
	}
	defer os.RemoveAll(dir) // contents are in the spool
	format := "sha1"
	if len(commit) == 64 {
		format = "sha256"
	}
	if _, err := git(ctx, dir, 1<<20, "init", "--quiet", "--bare", "--object-format="+format, "."); err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	err = f.eachPlace(ctx, url, func(place string) error {
		_, first := git(ctx, dir, 1<<20, "fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--", place, commit)
		if first == nil || ctx.Err() != nil {
			return first
		}
		// Some servers give out commits by the names of refs only.
		_, err := git(ctx, dir, 1<<20, "fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--", place, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
		if err != nil {
			return first
		}
		if _, err := git(ctx, dir, 1<<20, "cat-file", "-e", commit+"^{commit}"); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return &goneError{place + " has no commit " + commit}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	date, err := git(ctx, dir, 1<<20, "show", "--no-patch", "--format=%H %ct", commit)
	if err != nil {
		return nil, err
	}
	var got string
	var seconds int64
	if _, err := fmt.Sscan(string(date), &got, &seconds); err != nil || got != commit {
		return nil, fault.Errorf(fault.Verification, "%s: %s is not a commit but names %.100q", url, commit, date)
	}
	entries, err := git(ctx, dir, 256<<20, "ls-tree", "-r", "-z", "-l", "--full-tree", commit)
	if err != nil {
		return nil, err
	}
	spool, err := rootfs.NewSpool(filepath.Join(f.cache, "tmp"))
	if err != nil {
		return nil, store.FullDisk(f.cache, err)
	}
	t = &gitTree{date: time.Unix(seconds, 0), close: func() { _ = spool.Close() }} // a temporary file
	if t.tree, err = readGitTree(ctx, dir, name, entries, spool); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// gitEntry is a line of git ls-tree -l.
type gitEntry struct {
	mode, object, path string
	size               int64
}

// parseTree reads what git ls-tree -r -z -l prints. A submodule is an error of
// class fault.Source: it is another repository's commit.
func parseTree(text []byte) ([]gitEntry, error) {
	var out []gitEntry
	for line := range bytes.SplitSeq(text, []byte{0}) {
		if len(line) == 0 {
			continue
		}
		about, path, ok := strings.Cut(string(line), "\t")
		w := strings.Fields(about)
		if !ok || len(w) != 4 {
			return nil, fault.Errorf(fault.Source, "git ls-tree: %.100q is not understood", line)
		}
		e := gitEntry{mode: w[0], object: w[2], path: path}
		switch e.mode {
		case "100644", "100664", "100755", "120000":
		case "160000":
			return nil, fault.Errorf(fault.Source, "%s is a submodule, a commit of another repository", path).
				Hintf("name that repository as a source of its own, and put it in its place in the build script")
		default:
			return nil, fault.Errorf(fault.Source, "%s has the mode %s, which is not known", path, e.mode)
		}
		var err error
		if e.size, err = strconv.ParseInt(w[3], 10, 64); err != nil || e.size < 0 || e.size > lock.MaxSize {
			return nil, fault.Errorf(fault.Source, "%s has the size %q", path, w[3])
		}
		if !lock.ValidCommit(e.object) || !fs.ValidPath(path) && path != "" {
			return nil, fault.Errorf(fault.Source, "git ls-tree: %.100q is not a path below the top", path)
		}
		out = append(out, e)
	}
	if limit := rootfs.DefaultLimits().Entries; len(out) > limit {
		return nil, fault.Errorf(fault.Source, "more than %d files", limit)
	}
	return out, nil
}

// readGitTree reads the objects of a tree, in its order.
func readGitTree(ctx context.Context, dir, name string, text []byte, spool *rootfs.Spool) (*rootfs.Tree, error) {
	entries, err := parseTree(text)
	if err != nil {
		return nil, err
	}
	cmd := gitIn(ctx, dir, "cat-file", "--batch")
	var stderr, names bytes.Buffer
	for _, e := range entries {
		names.WriteString(e.object + "\n")
	}
	cmd.Stdin, cmd.Stderr = &names, &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fault.Wrap(fault.Internal, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fault.Errorf(fault.Environment, "git: %w", err).Hintf("install git")
	}
	tree, readErr := readObjects(bufio.NewReaderSize(out, 1<<16), name, entries, spool)
	if readErr != nil {
		_ = cmd.Process.Kill() // what it ends with does not matter any more
	}
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case readErr != nil:
		return nil, readErr
	case err != nil:
		return nil, fault.Errorf(fault.Source, "git cat-file: %s", gitErrors(stderr.String(), err))
	}
	return tree, nil
}

// readObjects reads what git cat-file --batch prints for the entries.
func readObjects(r *bufio.Reader, name string, entries []gitEntry, spool *rootfs.Spool) (*rootfs.Tree, error) {
	tree := rootfs.New()
	for _, e := range entries {
		head, err := r.ReadString('\n')
		if err != nil || head != fmt.Sprintf("%s blob %d\n", e.object, e.size) {
			return nil, fault.Errorf(fault.Source, "git cat-file: %.100q for %s, %w", head, e.path, errors.Join(err, errUnexpected))
		}
		entry := rootfs.Entry{Path: name + "/" + e.path, Mode: 0o644, Size: e.size}
		if e.mode == "120000" {
			target := make([]byte, min(e.size, unix.PathMax))
			if _, err := io.ReadFull(r, target); err != nil || int64(len(target)) < e.size {
				return nil, fault.Errorf(fault.Source, "%s: a symbolic link of %d bytes", e.path, e.size)
			}
			entry = rootfs.Symlink(entry.Path, string(target))
		} else {
			if e.mode == "100755" {
				entry.Mode = 0o755
			}
			if entry.Content, err = spool.AddN(r, e.size); err != nil {
				return nil, fault.Wrap(fault.Environment, err)
			}
		}
		if end, err := r.ReadByte(); err != nil || end != '\n' {
			return nil, fault.Errorf(fault.Source, "git cat-file: %s does not end, %w", e.path, errors.Join(err, errUnexpected))
		}
		if err := tree.Add(entry); err != nil {
			return nil, fault.Wrap(fault.Source, err)
		}
	}
	return tree, nil
}

var errUnexpected = errors.New("which is not expected")
