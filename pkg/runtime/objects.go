package runtime

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/sovereign-build/sovereign/internal/atomicfile"
	"github.com/sovereign-build/sovereign/internal/machinefile"
	"github.com/sovereign-build/sovereign/internal/requests"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// Moved is told how far long work is, in bytes; total is 0 where it is not known.
// It may be nil.
type Moved func(done, total int64)

// Clone makes a machine of its own from a copy of this one's data disk, bundle
// and options: with other ports and, from its first start on, other secrets and
// a history of its own. It is wanted down. This one may run meanwhile; its writes
// are held for hold.
func (m *Machine) Clone(ctx context.Context, name string, moved Moved) (hold time.Duration, err error) {
	conn, stop, err := m.h.longWork(ctx, machinePath(m.name, "clone")+"?to="+url.QueryEscape(name))
	if err != nil {
		return 0, err
	}
	defer stop()
	last, err := m.h.follow(ctx, conn, moved)
	return time.Duration(last.HoldMS * float64(time.Millisecond)), err
}

// Rename gives a machine that is down another name. m has the old one.
func (m *Machine) Rename(ctx context.Context, name string) error {
	return m.h.call(ctx, http.MethodPost, machinePath(m.name, "rename"), requests.Name{Name: name}, nil)
}

// Export writes the machine into a file: its bundle, its options and its data
// disk as it is now, with all its secrets. The machine may run meanwhile. The
// file is there when all of it is, and was read back.
func (m *Machine) Export(ctx context.Context, path string, moved Moved) error {
	f, err := atomicfile.Create(path, 0o600)
	if err != nil {
		return err
	}
	defer f.Abort()
	conn, stop, err := m.h.longWork(ctx, machinePath(m.name, "export"))
	if err != nil {
		return err
	}
	defer stop()
	// What is written is held to its own sum on its way.
	check, feed := io.Pipe()
	checked := make(chan error, 1)
	go func() {
		err := machinefile.Read(check, &whole{moved: moved})
		check.CloseWithError(errors.Join(err, io.ErrClosedPipe))
		checked <- err
	}()
	_, copyErr := io.Copy(f, io.TeeReader(conn, feed))
	feed.CloseWithError(copyErr)
	err = <-checked
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil && fault.ClassOf(err) != fault.Verification:
		return m.h.said(ctx, err)
	case copyErr != nil && !errors.Is(copyErr, io.ErrClosedPipe):
		return fault.Wrap(fault.Environment, copyErr)
	case err != nil:
		return m.h.said(ctx, err)
	}
	return f.Commit()
}

// whole reads a machine's file to see that it is whole.
type whole struct {
	moved Moved
	total int64
	done  int64
}

func (w *whole) Head(h machinefile.Head) error { w.total = h.Used; return nil }

func (w *whole) File(_ string, _ int64, r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

func (w *whole) Data(_ int64, b []byte) error {
	if w.done += int64(len(b)); w.moved != nil {
		w.moved(w.done, w.total)
	}
	return nil
}

// Imported is a machine that was made from a file.
type Imported struct {
	Name string `json:"name"`
	From string `json:"from"` // the machine's name in the file
	Size int64  `json:"size"` // of its data disk, bytes
}

// Import makes a machine from a file that Export has written. An empty name is
// the file's. It has the other one's secrets and history, so that one of the two
// must never run again; with clone it is a machine of its own, as by Clone. It is
// wanted down.
func (h *Host) Import(ctx context.Context, path, name string, clone bool, moved Moved) (Imported, error) {
	f, err := os.Open(path)
	if err != nil {
		return Imported{}, fault.Wrap(fault.Usage, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Imported{}, fault.Wrap(fault.Environment, err)
	}
	query := url.Values{"name": {name}, "clone": {strconv.FormatBool(clone)}}
	conn, stop, err := h.longWork(ctx, "/v1/import?"+query.Encode())
	if err != nil {
		return Imported{}, err
	}
	defer stop()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, &progress{f, moved, 0, info.Size()})
		if c, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			err = c.CloseWrite()
		}
		sent <- err
	}()
	last, err := h.follow(ctx, conn, nil)
	conn.Close()
	if sendErr := <-sent; err == nil && sendErr != nil {
		err = fmt.Errorf("sending %s: %w", path, sendErr)
	}
	return Imported{last.Name, last.From, last.Size}, err
}

// progress tells what was read.
type progress struct {
	r           io.Reader
	moved       Moved
	done, total int64
}

func (p *progress) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if p.done += int64(n); p.moved != nil {
		p.moved(p.done, p.total)
	}
	return n, err
}

// longWork opens a raw stream that is closed when ctx ends, which the host sees.
// It is made once: whether it was done is known only by its own word.
func (h *Host) longWork(ctx context.Context, path string) (net.Conn, func(), error) {
	conn, err := h.upgrade(ctx, path)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	return conn, func() { stop(); conn.Close() }, nil
}

// follow hears how far long work is, until its end.
func (h *Host) follow(ctx context.Context, conn net.Conn, moved Moved) (requests.Line, error) {
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		var l requests.Line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return l, h.said(ctx, fault.Errorf(fault.Device, "sovereignd: %w", err))
		}
		switch {
		case l.Over && l.Error != "":
			e := fault.Errorf(fault.Class(l.Class), "%s", l.Error)
			e.Hint = l.Hint
			return l, h.said(ctx, e)
		case l.Over:
			return l, nil
		case moved != nil:
			moved(l.Done, l.Total)
		}
	}
	if ctx.Err() != nil {
		return requests.Line{}, context.Cause(ctx)
	}
	return requests.Line{}, h.said(ctx, fault.Errorf(fault.Device, "the connection was lost before sovereignd said how it ended: %w", errors.Join(lines.Err(), io.ErrUnexpectedEOF)).
		Hintf("see which machines there are: sovereign-build status"))
}
