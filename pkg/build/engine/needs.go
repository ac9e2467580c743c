package engine

// A Need is something on this machine that the private engine uses.
type Need struct {
	Name string
	Path string // where it is, empty with an error
	Err  error  // why it cannot be used, as Start would say it
}

// Needs looks for what Start would use, and starts nothing. An engine
// elsewhere needs nothing here. The error is for wrong options.
func Needs(opts ...Option) ([]Need, error) {
	o, err := newOptions(opts)
	if err != nil || o.address != "" {
		return nil, err
	}
	var needs []Need
	add := func(name string, find func() (string, error)) {
		path, err := find()
		needs = append(needs, Need{name, path, err})
	}
	add("buildkitd", o.findBuildkitd)
	add("runc", o.host.runtime)
	if o.host.uid != 0 {
		add("rootless engine", o.host.rootless)
	}
	return needs, nil
}
