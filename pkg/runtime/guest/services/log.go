package services

import (
	"context"
	"fmt"
	"io/fs"
	"net"
)

// DialLog connects to where a service gives its log of changes away.
func (s *Manager) DialLog(ctx context.Context, name string) (net.Conn, error) {
	n, ok := s.byName[name]
	if !ok {
		return nil, unknownService(name)
	}
	if n.spec.Backup == nil || n.spec.Backup.Log == nil {
		return nil, fmt.Errorf("service %q has no log of changes: %w", name, fs.ErrNotExist)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", n.spec.Backup.Log.Socket)
	if err != nil {
		return nil, fmt.Errorf("service %q: its log of changes: %w", name, err)
	}
	return conn, nil
}

// logKind is the kind of the log that a service gives away; "": none.
func (n *service) logKind() string {
	if b := n.spec.Backup; b != nil && b.Log != nil {
		return b.Log.Kind
	}
	return ""
}
