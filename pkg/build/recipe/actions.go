package recipe

import (
	"encoding/hex"
	"fmt"
	"math"
	"strings"
)

// Action stands for one install script of a package, which is never run: it
// says what the script does to an image. A script without an action is an
// error that shows its text and digest.
type Action struct {
	// Package is the name of the package that brings the script.
	Package string `yaml:"package"`
	// Script is pre-install, post-install or trigger.
	Script string `yaml:"script"`
	// Digest is "sha256:" and the SHA-256 of the script's text in hex. Another
	// version's script with another text needs another action.
	Digest string `yaml:"digest"`
	// Steps are done in order when the files of all packages are there. None
	// means that the script has nothing to do in an image.
	Steps []Step `yaml:"steps,omitempty"`
}

// Step is one thing an action does. Exactly one of its keys is given.
type Step struct {
	// Group is addgroup: a group, kept as it is where it is there already.
	Group *GroupStep `yaml:"group,omitempty"`
	// User is adduser: an account without a password, kept likewise.
	User *UserStep `yaml:"user,omitempty"`
	// Member puts a user into a further group.
	Member *MemberStep `yaml:"member,omitempty"`
	// Directory is made, or given these attributes.
	Directory *DirectoryStep `yaml:"directory,omitempty"`
	// Link is a symbolic link, made where nothing is yet.
	Link *LinkStep `yaml:"link,omitempty"`
	// File is written, over what is there.
	File *FileStep `yaml:"file,omitempty"`
	// Applets makes the links of a program with many names, as busybox
	// --install does.
	Applets *AppletsStep `yaml:"applets,omitempty"`
}

// GroupStep is a group in /etc/group.
type GroupStep struct {
	Name string `yaml:"name"`
	// GID is from 1 to 2147483647.
	GID int `yaml:"gid"`
}

// UserStep is an account in /etc/passwd and /etc/shadow.
type UserStep struct {
	Name string `yaml:"name"`
	// UID and GID are from 1 to 2147483647; GID is the primary group's.
	UID int `yaml:"uid"`
	GID int `yaml:"gid"`
	// Comment is the field with the person's name.
	Comment string `yaml:"comment,omitempty"`
	// Home is "/dev/null" by default.
	Home string `yaml:"home,omitempty"`
	// Shell is "/sbin/nologin" by default.
	Shell string `yaml:"shell,omitempty"`
}

// MemberStep is a member of a group that is there.
type MemberStep struct {
	User  string `yaml:"user"`
	Group string `yaml:"group"`
}

// DirectoryStep is a directory.
type DirectoryStep struct {
	// Path is absolute, in the image.
	Path string `yaml:"path"`
	// Mode is octal in quotes, "0755" by default.
	Mode string `yaml:"mode,omitempty"`
	// UID and GID own it, root by default.
	UID int `yaml:"uid,omitempty"`
	GID int `yaml:"gid,omitempty"`
}

// LinkStep is a symbolic link.
type LinkStep struct {
	// Path is absolute, in the image.
	Path string `yaml:"path"`
	// Target is what the link holds.
	Target string `yaml:"target"`
}

// FileStep is a file of root's.
type FileStep struct {
	// Path is absolute, in the image.
	Path string `yaml:"path"`
	// Content is the contents, written as they are.
	Content string `yaml:"content"`
	// Mode is octal in quotes, "0644" by default.
	Mode string `yaml:"mode,omitempty"`
}

// AppletsStep links every path in a list to one program.
type AppletsStep struct {
	// List is a file of the image with a path in each line.
	List string `yaml:"list"`
	// Target is the program.
	Target string `yaml:"target"`
}

const digestPrefix = "sha256:"

// checkActions checks what the actions say, not whether a package has such a
// script: only the build knows.
func checkActions(c *check, actions []Action) {
	seen := map[string]string{}
	for i, a := range actions {
		where := index("actions", i)
		if !packagePattern.MatchString(a.Package) {
			c.failf(where+".package", "%q is not a package's name", a.Package)
		}
		c.oneOf(where+".script", "script", a.Script, "pre-install", "post-install", "trigger")
		sum, ok := strings.CutPrefix(a.Digest, digestPrefix)
		if b, err := hex.DecodeString(sum); !ok || err != nil || len(b) != 32 || sum != strings.ToLower(sum) {
			c.failf(where+".digest", "digest %q is not sha256: and 64 digits of lower case hex", a.Digest)
		}
		unique(c, seen, where+".package", "action for", fmt.Sprintf("%s %s %s", a.Package, a.Script, a.Digest))
		for j, s := range a.Steps {
			checkStep(c, index(where+".steps", j), s)
		}
	}
}

func checkStep(c *check, where string, s Step) {
	var given []string
	for _, key := range []string{"group", "user", "member", "directory", "link", "file", "applets"} {
		if c.given(where + "." + key) {
			given = append(given, key)
		}
	}
	if len(given) != 1 {
		c.failf(where, "the step has %s, exactly one of group, user, member, directory, link, file and applets is needed", orNone(given))
		return
	}
	where += "." + given[0]
	switch {
	case s.Group != nil:
		c.account(where+".name", s.Group.Name)
		c.between(where+".gid", s.Group.GID, 1, math.MaxInt32)
	case s.User != nil:
		c.account(where+".name", s.User.Name)
		c.between(where+".uid", s.User.UID, 1, math.MaxInt32)
		c.between(where+".gid", s.User.GID, 1, math.MaxInt32)
		for key, value := range map[string]string{"comment": s.User.Comment, "home": s.User.Home, "shell": s.User.Shell} {
			if strings.ContainsAny(value, ":\n") {
				c.failf(where+"."+key, "%s %q has a colon or a line break in it, which /etc/passwd cannot hold", key, value)
			}
		}
	case s.Member != nil:
		c.account(where+".user", s.Member.User)
		c.account(where+".group", s.Member.Group)
	case s.Directory != nil:
		c.absolute(where+".path", s.Directory.Path)
		if c.given(where + ".mode") {
			c.mode(where+".mode", s.Directory.Mode)
		}
		c.between(where+".uid", s.Directory.UID, 0, math.MaxInt32)
		c.between(where+".gid", s.Directory.GID, 0, math.MaxInt32)
	case s.Link != nil:
		c.absolute(where+".path", s.Link.Path)
		c.notEmpty(where+".target", s.Link.Target)
	case s.File != nil:
		c.absolute(where+".path", s.File.Path)
		if c.given(where + ".mode") {
			c.mode(where+".mode", s.File.Mode)
		}
	case s.Applets != nil:
		c.absolute(where+".list", s.Applets.List)
		c.absolute(where+".target", s.Applets.Target)
	}
}

// account is the name of a user or group of Alpine's packages, which are
// freer than a recipe's own.
func (c *check) account(path, value string) {
	if !packagePattern.MatchString(value) {
		c.failf(path, "%q is not a name", value)
	}
}
