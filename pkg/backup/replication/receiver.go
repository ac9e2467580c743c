// Package replication receives PostgreSQL's log by its protocol of physical
// replication, into a spool of package wal. It brings pgproto3 with it, which
// those who only read a log need not have.
package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/sovereign-build/sovereign/pkg/backup/wal"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

const (
	// Slot is the server's place for this reader of its log: it keeps what was
	// not confirmed, up to max_slot_wal_keep_size.
	Slot = "sovereign"
	role = "postgres"
	// syncAfter is how long what was received may wait for more before it is
	// brought to the disk, and syncBytes how much of it.
	syncAfter = 100 * time.Millisecond
	syncBytes = 1 << 20
	// wordEvery is how often the server is told how far it has come, and asked
	// whether it is there.
	wordEvery = 5 * time.Second
	// silence is how long it may say nothing. It answers every word.
	silence = time.Minute
	// talkLimit is how long it may take to answer a question.
	talkLimit = 30 * time.Second
	// queued bounds the messages that wait to be written: each is 128 KiB at most.
	queued     = 16
	maxMessage = 16 << 20
)

// Position is where a server is with its log.
type Position struct {
	System   uint64       `json:"system,string"`
	Timeline wal.Timeline `json:"timeline"`
	Flushed  wal.LSN      `json:"flushed"`
}

// News is what a Receiver tells while it works.
type News struct {
	Branch wal.Branch
	Extent wal.Extent
	Server wal.LSN   // the end of the server's log
	At     time.Time // when the server said so, by its clock
}

// Receiver fills a spool from a server.
type Receiver struct {
	// Dir is the spool's directory. What is there is gone on with.
	Dir string
	// News is called when something has come to the disk, and now and then.
	News func(News)
	// Opened is called with the spool before anything is received.
	Opened func(*wal.Spool)
	// Prompt says whether somebody waits for what is received: it is brought to the
	// disk as soon as no more has come, and not with what comes within a moment. Nil:
	// nobody does.
	Prompt func() bool
}

// Run receives over a connection to the server, which it closes, until ctx ends
// or the connection does; then it is for the caller to come again. It returns a
// *wal.ForkError or a *wal.GapError where the server's log does not go on from what is
// there: then the directory is to be put away, and why is for Fresh.
func (r *Receiver) Run(ctx context.Context, conn io.ReadWriteCloser) error {
	return r.run(ctx, conn, "")
}

// Fresh is Run for an empty or absent directory: it begins a branch.
func (r *Receiver) Fresh(ctx context.Context, conn io.ReadWriteCloser, why string) error {
	return r.run(ctx, conn, why)
}

func (r *Receiver) run(ctx context.Context, conn io.ReadWriteCloser, why string) (err error) {
	defer func() {
		// The connection was closed because ctx ended, and either may be seen first.
		if ctx.Err() != nil && errors.Is(err, net.ErrClosed) {
			err = context.Cause(ctx)
		}
	}()
	s, err := connect(ctx, conn)
	if err != nil {
		return err
	}
	defer s.close()
	var spool *wal.Spool
	if why != "" {
		spool, err = r.fresh(ctx, s, why)
	} else {
		spool, err = r.resume(ctx, s)
	}
	if err != nil {
		return err
	}
	defer spool.Close() //nolint:errcheck // what counts is synced
	if r.Opened != nil {
		r.Opened(spool)
	}
	for {
		at, tli := spool.Begin()
		next, err := r.receive(ctx, s, spool, at, tli)
		if err != nil || next == 0 {
			return err
		}
		if err := r.follow(ctx, s, spool, next); err != nil {
			return err
		}
	}
}

// follow goes on with the timeline that the server has left another for.
func (r *Receiver) follow(ctx context.Context, s *session, spool *wal.Spool, next wal.Timeline) error {
	history, err := s.history(ctx, next)
	if err != nil {
		return err
	}
	list, err := wal.ParseHistory(history)
	if err != nil {
		return err
	}
	was := spool.Branch().Timeline
	for _, h := range list {
		if h.Timeline == was {
			return spool.Switch(next, h.At, history)
		}
	}
	written, _ := spool.Ends()
	return &wal.ForkError{At: written, Kept: written, Text: fmt.Sprintf("the server is on timeline %d, which does not come from %d", next, was)}
}

// fresh begins a branch where the server's log is kept from.
func (r *Receiver) fresh(ctx context.Context, s *session, why string) (*wal.Spool, error) {
	at, err := s.identify(ctx)
	if err != nil {
		return nil, err
	}
	segment, err := s.segmentSize(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.makeSlot(ctx, true); err != nil {
		return nil, err
	}
	start, err := s.slotStart(ctx)
	if err != nil {
		return nil, err
	}
	return wal.CreateSpool(r.Dir, wal.NewBranch(at.System, segment, at.Timeline, start.Floor(segment), why))
}

// resume sees whether the server's log is the one that was kept, as far as that
// can be told before it is read.
func (r *Receiver) resume(ctx context.Context, s *session) (_ *wal.Spool, err error) {
	spool, err := wal.OpenSpool(r.Dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, spool.Close())
		}
	}()
	at, err := s.identify(ctx)
	if err != nil {
		return nil, err
	}
	b, kept := spool.Branch(), spool.Extent().To
	switch {
	case at.System != b.System:
		return nil, &wal.ForkError{At: b.Start, Kept: kept, Text: fmt.Sprintf("it is another server's: %d, and not %d", at.System, b.System)}
	case at.Timeline < b.Timeline:
		return nil, &wal.ForkError{At: at.Flushed, Kept: kept, Text: fmt.Sprintf("it is on timeline %d, and was on %d", at.Timeline, b.Timeline)}
	case at.Timeline == b.Timeline && at.Flushed < kept:
		return nil, &wal.ForkError{At: at.Flushed, Kept: kept, Text: "it ends"}
	}
	return spool, s.makeSlot(ctx, false)
}

// receive receives a timeline from a place on, until its end; next is the one
// that it was left for.
func (r *Receiver) receive(ctx context.Context, s *session, spool *wal.Spool, at wal.LSN, tli wal.Timeline) (next wal.Timeline, err error) {
	done, err := s.start(ctx, at, tli)
	if err != nil {
		return 0, gap(err, at)
	}
	if done { // the server was never there: it left the timeline before
		return s.nextTimeline(ctx)
	}
	events := s.listen()
	defer events.stop()
	word := time.NewTicker(wordEvery)
	defer word.Stop()
	soon := time.NewTimer(0)
	defer soon.Stop()
	heard := time.Now()
	waiting := false
	var server wal.LSN
	var clock time.Time
	// What is there from before is confirmed when it was compared: of a server
	// whose disk went back it is another log, which somebody may wait for.
	compared := at
	confirm := func(ask bool) error {
		_, synced := spool.Ends()
		return s.confirm(min(synced, compared), ask)
	}
	settle := func() error {
		waiting = false
		if _, err := spool.Sync(); err != nil {
			return err
		}
		// First the word that somebody may wait for.
		err := confirm(false)
		if r.News != nil {
			r.News(News{Branch: spool.Branch(), Extent: spool.Extent(), Server: server, At: clock})
		}
		return err
	}
	for {
		select {
		case <-ctx.Done():
			_, err := spool.Sync()
			return 0, errors.Join(context.Cause(ctx), err)
		case <-soon.C:
			if waiting {
				if err := settle(); err != nil {
					return 0, err
				}
			}
		case <-word.C:
			if time.Since(heard) > silence {
				return 0, fault.Errorf(fault.Device, "the server has said nothing of its log for %v", silence)
			}
			if err := confirm(true); err != nil {
				return 0, err
			}
		case e := <-events.c:
			heard = time.Now()
			events.final = e.err != nil || e.over
			if e.err != nil {
				_, err := spool.Sync()
				return 0, errors.Join(gap(e.err, at), err)
			}
			if e.over {
				if err := settle(); err != nil {
					return 0, err
				}
				return s.endCopy(ctx)
			}
			if e.end > server {
				server = e.end
			}
			if !e.clock.IsZero() {
				clock = e.clock
			}
			if len(e.data) > 0 {
				if err := spool.Append(e.at, e.data); err != nil {
					return 0, err
				}
				compared = max(compared, e.at+wal.LSN(len(e.data)))
				written, synced := spool.Ends()
				switch {
				case written-synced >= syncBytes || written > synced && r.Prompt != nil && r.Prompt() && len(events.c) == 0:
					err = settle()
				case !waiting && written > synced:
					waiting = true
					soon.Reset(syncAfter)
				}
			} else if r.News != nil {
				r.News(News{Branch: spool.Branch(), Extent: spool.Extent(), Server: server, At: clock})
			}
			if err == nil && e.reply {
				err = confirm(false)
			}
			if err != nil {
				return 0, err
			}
		}
	}
}

// gap tells that a server has not what is asked for any more from all else that
// it may say.
func gap(err error, at wal.LSN) error {
	var said *serverError
	if !errors.As(err, &said) {
		return err
	}
	switch {
	case strings.Contains(said.Message, "is ahead of the WAL flush position"):
		return &wal.ForkError{At: at, Kept: at, Text: "it ends"}
	// A file that is gone, and a slot that was given up: 58P01, 55000.
	case said.Code == "58P01" || said.Code == "55000" && strings.Contains(said.Message, "slot"),
		strings.Contains(said.Message, "has already been removed"):
		return &wal.GapError{Text: fmt.Sprintf("the server has not kept its log from %v on: %s", at, said.Message)}
	case strings.Contains(said.Message, "is not in this server's history"):
		return &wal.ForkError{At: at, Kept: at, Text: said.Message}
	}
	return err
}

// AskPosition asks a server where it is, over a connection that it closes.
func AskPosition(ctx context.Context, conn io.ReadWriteCloser) (Position, error) {
	s, err := connect(ctx, conn)
	if err != nil {
		return Position{}, err
	}
	defer s.close()
	return s.identify(ctx)
}

// Setting asks a server for the value of a setting, over a connection that it
// closes.
func Setting(ctx context.Context, conn io.ReadWriteCloser, name string) (string, error) {
	s, err := connect(ctx, conn)
	if err != nil {
		return "", err
	}
	defer s.close()
	row, err := s.one(ctx, "SHOW "+name, 1)
	if err != nil {
		return "", err
	}
	return row[0], nil
}

// DropSlot has a server keep no log for a reader any more, over a connection that
// it closes. It says whether it had.
func DropSlot(ctx context.Context, conn io.ReadWriteCloser) (had bool, err error) {
	s, err := connect(ctx, conn)
	if err != nil {
		return false, err
	}
	defer s.close()
	if _, had, err = s.readSlot(ctx); err != nil || !had {
		return had, err
	}
	_, err = s.ask(ctx, "DROP_REPLICATION_SLOT "+Slot)
	return true, err
}

// epoch is where PostgreSQL's time begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// session is one connection.
type session struct {
	conn io.ReadWriteCloser
	fe   *pgproto3.Frontend
	stop func() bool
}

// serverError is what the server says that went wrong.
type serverError struct{ pgproto3.ErrorResponse }

func (e *serverError) Error() string {
	return fmt.Sprintf("the server says: %s (SQLSTATE %s)", e.Message, e.Code)
}

// away is the error of a connection that was lost.
func away(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fault.Errorf(fault.Device, "the connection to the server's log: %w", err)
}

// connect begins a session. The connection is who it comes from: no password is
// sent, and a server that wants one is not served.
func connect(ctx context.Context, conn io.ReadWriteCloser) (*session, error) {
	s := &session{conn: conn, fe: pgproto3.NewFrontend(conn, conn)}
	s.fe.SetMaxBodyLen(maxMessage)
	s.stop = context.AfterFunc(ctx, func() { conn.Close() })
	err := s.talk(ctx, &pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{
		"user": role, "database": "replication", "replication": "true", "application_name": Slot,
	}}, func(m pgproto3.BackendMessage) (done bool, err error) {
		switch m.(type) {
		case *pgproto3.ReadyForQuery:
			return true, nil
		case *pgproto3.AuthenticationOk, *pgproto3.ParameterStatus, *pgproto3.BackendKeyData, *pgproto3.NoticeResponse:
			return false, nil
		}
		return false, fault.Errorf(fault.Device, "the server asks for what only a program in the guest is to know (%T)", m)
	})
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *session) close() {
	s.stop()
	s.conn.Close()
}

// limited ends a question that is not answered.
func (s *session) limited(ctx context.Context, f func() error) error {
	late := time.AfterFunc(talkLimit, func() { s.conn.Close() })
	err := f()
	if !late.Stop() && err != nil && ctx.Err() == nil {
		return fault.Errorf(fault.Device, "the server did not answer within %v: %w", talkLimit, os.ErrDeadlineExceeded)
	}
	return err
}

// talk sends a message, if there is one, and has take look at what comes, until
// that is done. The server's own error ends it, and the session is of no use then.
func (s *session) talk(ctx context.Context, message pgproto3.FrontendMessage, take func(pgproto3.BackendMessage) (done bool, err error)) error {
	return s.limited(ctx, func() error {
		if message != nil {
			s.fe.Send(message)
			if err := s.fe.Flush(); err != nil {
				return away(ctx, err)
			}
		}
		for {
			m, err := s.fe.Receive()
			if err != nil {
				return away(ctx, err)
			}
			if e, ok := m.(*pgproto3.ErrorResponse); ok {
				return fault.Wrap(fault.Device, &serverError{*e})
			}
			if done, err := take(m); done || err != nil {
				return err
			}
		}
	})
}

// maxRows bounds an answer.
const maxRows = 100

// ask asks a question and returns the answer's rows.
func (s *session) ask(ctx context.Context, query string) (rows [][]string, err error) {
	err = s.talk(ctx, &pgproto3.Query{String: query}, func(m pgproto3.BackendMessage) (done bool, err error) {
		switch m := m.(type) {
		case *pgproto3.DataRow:
			if len(rows) == maxRows {
				return false, fault.Errorf(fault.Device, "the server answers %s with more than %d rows", query, maxRows)
			}
			row := make([]string, len(m.Values))
			for i, v := range m.Values {
				row[i] = string(v)
			}
			rows = append(rows, row)
		case *pgproto3.ReadyForQuery:
			return true, nil
		}
		return false, nil
	})
	return rows, err
}

// one is an answer of one row with so many columns at least.
func (s *session) one(ctx context.Context, query string, columns int) ([]string, error) {
	rows, err := s.ask(ctx, query)
	if err == nil && (len(rows) != 1 || len(rows[0]) < columns) {
		err = fault.Errorf(fault.Device, "the server answers %s with %d rows", query, len(rows))
	}
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}

func (s *session) identify(ctx context.Context) (Position, error) {
	row, err := s.one(ctx, "IDENTIFY_SYSTEM", 3)
	if err != nil {
		return Position{}, err
	}
	system, err1 := strconv.ParseUint(row[0], 10, 64)
	tli, err2 := strconv.ParseUint(row[1], 10, 32)
	at, err3 := wal.ParseLSN(row[2])
	if err := errors.Join(err1, err2, err3); err != nil || tli == 0 {
		return Position{}, fault.Errorf(fault.Device, "the server says that it is %.100q", row)
	}
	return Position{System: system, Timeline: wal.Timeline(tli), Flushed: at}, nil
}

func (s *session) segmentSize(ctx context.Context) (int64, error) {
	row, err := s.one(ctx, "SHOW wal_segment_size", 1)
	if err != nil {
		return 0, err
	}
	n, unit := row[0], int64(1)
	for suffix, u := range map[string]int64{"kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30} {
		if bare, ok := strings.CutSuffix(n, suffix); ok {
			n, unit = bare, u
			break
		}
	}
	v, err := strconv.ParseInt(n, 10, 32)
	if err != nil || wal.CheckSegmentSize(v*unit) != nil {
		return 0, fault.Errorf(fault.Device, "the server says that its segments have %.40q", row[0])
	}
	return v * unit, nil
}

// readSlot is from where on the slot has the server keep its log; 0 from
// nowhere.
func (s *session) readSlot(ctx context.Context) (at wal.LSN, there bool, err error) {
	row, err := s.one(ctx, "READ_REPLICATION_SLOT "+Slot, 3)
	if err != nil || row[0] == "" {
		return 0, false, err
	}
	if row[0] != "physical" {
		return 0, false, fault.Errorf(fault.Device, "the server has a slot %s of another kind: %.40q", Slot, row[0]).Hintf("drop it: SELECT pg_drop_replication_slot('%s')", Slot)
	}
	if row[1] == "" {
		return 0, true, nil
	}
	at, err = wal.ParseLSN(row[1])
	return at, true, err
}

func (s *session) slotStart(ctx context.Context) (wal.LSN, error) {
	at, _, err := s.readSlot(ctx)
	if err == nil && at == 0 {
		err = fault.Errorf(fault.Device, "the server keeps nothing for its slot %s", Slot)
	}
	return at, err
}

// makeSlot makes the slot where there is none, or always anew.
func (s *session) makeSlot(ctx context.Context, anew bool) error {
	_, there, err := s.readSlot(ctx)
	if err != nil || there && !anew {
		return err
	}
	if there {
		if _, err := s.ask(ctx, "DROP_REPLICATION_SLOT "+Slot); err != nil {
			return err
		}
	}
	_, err = s.ask(ctx, "CREATE_REPLICATION_SLOT "+Slot+" PHYSICAL RESERVE_WAL")
	return err
}

func (s *session) history(ctx context.Context, tli wal.Timeline) ([]byte, error) {
	row, err := s.one(ctx, fmt.Sprintf("TIMELINE_HISTORY %d", tli), 2)
	if err != nil {
		return nil, err
	}
	if row[0] != wal.HistoryName(tli) {
		return nil, fault.Errorf(fault.Device, "the server has the history %.40q, and was asked for %s", row[0], wal.HistoryName(tli))
	}
	return []byte(row[1]), nil
}

// start has the server begin to send. done: it has nothing to send on this
// timeline, and says which is the next one.
func (s *session) start(ctx context.Context, at wal.LSN, tli wal.Timeline) (done bool, err error) {
	query := fmt.Sprintf("START_REPLICATION SLOT %s PHYSICAL %s TIMELINE %d", Slot, at, tli)
	err = s.talk(ctx, &pgproto3.Query{String: query}, func(m pgproto3.BackendMessage) (answered bool, err error) {
		switch m.(type) {
		case *pgproto3.CopyBothResponse:
			return true, nil
		case *pgproto3.RowDescription:
			done = true
			return true, nil
		}
		return false, nil
	})
	return done, err
}

// endCopy ends the sending of a timeline that has ended.
func (s *session) endCopy(ctx context.Context) (wal.Timeline, error) {
	s.fe.Send(&pgproto3.CopyDone{})
	if err := s.fe.Flush(); err != nil {
		return 0, away(ctx, err)
	}
	return s.nextTimeline(ctx)
}

// nextTimeline reads which timeline follows on one that has ended.
func (s *session) nextTimeline(ctx context.Context) (next wal.Timeline, err error) {
	err = s.talk(ctx, nil, func(m pgproto3.BackendMessage) (done bool, err error) {
		switch m := m.(type) {
		case *pgproto3.DataRow:
			if len(m.Values) > 0 {
				n, err := strconv.ParseUint(string(m.Values[0]), 10, 32)
				if err != nil {
					return false, fault.Errorf(fault.Device, "the server names %.40q as the next timeline", m.Values[0])
				}
				next = wal.Timeline(n)
			}
		case *pgproto3.ReadyForQuery:
			if next == 0 {
				return false, fault.Errorf(fault.Device, "the server has ended its log")
			}
			return true, nil
		}
		return false, nil
	})
	return next, err
}

// confirm tells the server what is on the disk, and with ask has it answer.
func (s *session) confirm(synced wal.LSN, ask bool) error {
	b := make([]byte, 0, 34)
	b = append(b, 'r')
	for range 3 { // written, flushed, applied
		b = binary.BigEndian.AppendUint64(b, uint64(synced))
	}
	b = binary.BigEndian.AppendUint64(b, uint64(time.Since(epoch).Microseconds()))
	reply := byte(0)
	if ask {
		reply = 1
	}
	text, err := (&pgproto3.CopyData{Data: append(b, reply)}).Encode(nil)
	if err == nil {
		_, err = s.conn.Write(text)
	}
	if err != nil {
		return fault.Errorf(fault.Device, "the connection to the server's log: %w", err)
	}
	return nil
}

// event is what the server has sent.
type event struct {
	at, end wal.LSN
	clock   time.Time
	data    []byte
	reply   bool // it wants to be told how far it is
	over    bool // the timeline has ended
	err     error
}

// events are read by a goroutine until the copy, or the connection, ends.
type events struct {
	c     chan event
	stop  func()
	final bool // the last one was taken: the connection is the caller's again
}

func (s *session) listen() *events {
	e := &events{c: make(chan event, queued)}
	quit, ended := make(chan struct{}), make(chan struct{})
	e.stop = func() {
		close(quit)
		if !e.final {
			s.conn.Close() // it reads, and nobody wants more
		}
		<-ended
	}
	go func() {
		defer close(ended)
		for {
			v := s.event()
			select {
			case e.c <- v:
			case <-quit:
				return
			}
			if v.err != nil || v.over {
				return
			}
		}
	}()
	return e
}

func (s *session) event() event {
	m, err := s.fe.Receive()
	if err != nil {
		return event{err: fault.Errorf(fault.Device, "the connection to the server's log: %w", err)}
	}
	switch m := m.(type) {
	case *pgproto3.CopyData:
		return parseCopy(m.Data)
	case *pgproto3.CopyDone:
		return event{over: true}
	case *pgproto3.ErrorResponse:
		return event{err: fault.Wrap(fault.Device, &serverError{*m})}
	case *pgproto3.CommandComplete: // its last word: all of its log has been sent
		return event{err: fault.Errorf(fault.Device, "the server has shut down")}
	case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		return event{}
	}
	return event{err: fault.Errorf(fault.Device, "the server sends %T in its log", m)}
}

// parseCopy reads a message of the log: data, or a word in between.
func parseCopy(b []byte) event {
	order := binary.BigEndian
	at := func(n int) time.Time { return epoch.Add(time.Duration(int64(order.Uint64(b[n:]))) * time.Microsecond) }
	switch {
	case len(b) >= 25 && b[0] == 'w':
		e := event{at: wal.LSN(order.Uint64(b[1:])), end: wal.LSN(order.Uint64(b[9:])), clock: at(17)}
		e.data = append([]byte(nil), b[25:]...) // the buffer is the next message's
		return e
	case len(b) >= 18 && b[0] == 'k':
		return event{end: wal.LSN(order.Uint64(b[1:])), clock: at(9), reply: b[17] != 0}
	}
	return event{err: fault.Errorf(fault.Device, "the server sends a message of %d bytes that is none of its log", len(b))}
}
