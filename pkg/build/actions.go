package build

import (
	"io/fs"
	"strconv"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/build/recipe"
	"github.com/sovereign-build/sovereign/pkg/rootfs"
	"github.com/sovereign-build/sovereign/pkg/rootfs/apk"
)

// scriptActions are the recipe's actions in the words of the installer.
func scriptActions(list []recipe.Action) ([]apk.Action, error) {
	var out []apk.Action
	for _, a := range list {
		action := apk.Action{Package: a.Package, Kind: a.Script, Digest: strings.TrimPrefix(a.Digest, "sha256:")}
		for _, s := range a.Steps {
			step, err := scriptStep(s)
			if err != nil {
				return nil, err
			}
			action.Steps = append(action.Steps, step)
		}
		out = append(out, action)
	}
	return out, nil
}

// scriptStep converts a step, of which exactly one kind is given.
func scriptStep(s recipe.Step) (apk.Step, error) {
	switch {
	case s.Group != nil:
		return apk.AddGroup{Name: s.Group.Name, GID: uint32(s.Group.GID)}, nil
	case s.User != nil:
		return apk.AddUser{
			Name: s.User.Name, UID: uint32(s.User.UID), GID: uint32(s.User.GID),
			Gecos: s.User.Comment, Home: s.User.Home, Shell: s.User.Shell,
		}, nil
	case s.Member != nil:
		return apk.AddMember{User: s.Member.User, Group: s.Member.Group}, nil
	case s.Directory != nil:
		mode, err := stepMode(s.Directory.Mode, 0o755)
		return apk.MakeDir{Path: s.Directory.Path, Mode: mode, UID: uint32(s.Directory.UID), GID: uint32(s.Directory.GID)}, err
	case s.Link != nil:
		return apk.MakeLink{Path: s.Link.Path, Target: s.Link.Target}, nil
	case s.File != nil:
		mode, err := stepMode(s.File.Mode, 0o644)
		return apk.MakeFile{Path: s.File.Path, Mode: mode, Data: []byte(s.File.Content)}, err
	default:
		return apk.Applets{List: s.Applets.List, Target: s.Applets.Target}, nil
	}
}

// stepMode is an octal mode, or what stands for none.
func stepMode(text string, missing fs.FileMode) (fs.FileMode, error) {
	if text == "" {
		return missing, nil
	}
	const regular = 0o100000 // the type without bits of its own in fs.FileMode
	mode, err := strconv.ParseUint(text, 8, 12)
	return rootfs.ModeFromUnix(uint32(mode) | regular), err
}
