package doctor

import "fmt"

// engine looks for what the private build engine needs.
func (e *examiner) engine() error {
	if e.Engine == "" && e.arch != "amd64" {
		e.add(ForBuild, "architecture", Missing, "the toolchain image is made for x86-64, and this machine is "+e.arch,
			"use an engine elsewhere with --engine ADDRESS")
	}
	needs, err := e.needs(e.Engine)
	if err != nil {
		return err
	}
	for _, n := range needs {
		if n.Err != nil {
			e.fail(ForBuild, n.Name, Missing, n.Err)
		} else {
			e.add(ForBuild, n.Name, OK, n.Path, "")
		}
	}
	return nil
}

// tools are programs that builds call on this machine.
func (e *examiner) tools() {
	for _, t := range []struct{ program, why, mend string }{
		{"mmdebstrap", "it makes the toolchain image", "apt-get install mmdebstrap uidmap"},
		{"apt-get", "it fetches Debian's packages and sources", "build on Debian or a distribution with apt"},
		{"dpkg-deb", "it reads Debian's packages", "apt-get install dpkg"},
		{"go", "it fetches and checks Go modules", "install Go 1.26 or newer"},
	} {
		if path, err := e.look(t.program); err != nil {
			e.add(ForBuild, t.program, Missing, fmt.Sprintf("%s is not installed: %s", t.program, t.why), t.mend)
		} else {
			e.add(ForBuild, t.program, OK, path, "")
		}
	}
}
