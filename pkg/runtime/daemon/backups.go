package daemon

import (
	"context"
	"io"
	"net"
	"net/http"

	"github.com/sovereign-build/sovereign/internal/backups"
	"github.com/sovereign-build/sovereign/internal/machine"
	"github.com/sovereign-build/sovereign/internal/requests"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/backup/wal"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/control"
)

// canBackup is what a sovereignd says of itself that keeps backups.
const canBackup = "backup"

// backupHandlers adds the endpoints of backups.
func (d *daemon) backupHandlers(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/repositories", func(w http.ResponseWriter, _ *http.Request) {
		list, err := d.backups.Repositories()
		answer(w, list, err)
	})
	mux.HandleFunc("PUT /v1/repositories/{name}", d.putRepository)
	mux.HandleFunc("DELETE /v1/repositories/{name}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{}, d.backups.ForgetRepository(r.PathValue("name")))
	})
	mux.HandleFunc("GET /v1/backups", d.getBackups)
	mux.HandleFunc("GET /v1/backups/logs", d.getLogs)
	mux.HandleFunc("POST /v1/backups/verify", d.postVerify)
	mux.HandleFunc("POST /v1/backups/files", d.postFiles)
	mux.HandleFunc("POST /v1/backups/tables", d.postTables)
	const m = " /v1/machines/{name}"
	mux.HandleFunc("POST"+m+"/backup", d.postBackup)
	mux.HandleFunc("POST"+m+"/restore", d.postRestore)
	mux.HandleFunc("DELETE"+m+"/restore", d.deleteRestore)
	mux.HandleFunc("POST"+m+"/recover", d.postRecover)
	mux.HandleFunc("POST"+m+"/drill", d.postDrill)
	mux.HandleFunc("PUT"+m+"/backup-policy", d.putPolicy)
}

// newBackups makes the keeper of backups, whose drills operate machines over a
// conversation with this very sovereignd.
func (d *daemon) newBackups(ctx context.Context) error {
	own := runtime.Over(func(context.Context) (net.Conn, error) {
		client, server := net.Pipe()
		d.talks.Go(func() {
			// Its end is the drill's.
			_ = control.Serve(ctx, server, d.hello, d.handler())
		})
		return client, nil
	})
	var err error
	d.backups, err = backups.New(ctx, d.r, backups.Options{
		Host: own, Program: d.o.BackupProgram, Report: d.report, Lacks: d.lacks,
		Progress: func(name string, p runtime.Progress) {
			d.hub.tell(0, runtime.Event{Phase: runtime.PhaseProgress, Machine: name, Progress: &p})
		},
		Changed: func(name string) {
			if k := d.keeper(name); k != nil {
				k.look()
			} else {
				poke(d.poked) // it is new
			}
		},
	})
	return err
}

func (d *daemon) putRepository(w http.ResponseWriter, r *http.Request) {
	var q requests.AddRepository[backup.Secrets]
	if !control.ReadRequest(w, r, &q) {
		return
	}
	key, err := d.backups.AddRepository(r.Context(), backup.Repository{Name: r.PathValue("name"), URL: q.URL}, q.Secrets, q.Initialize)
	answer(w, requests.RepositoryAdded{Key: key}, err)
}

func (d *daemon) getBackups(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	list, err := d.backups.Backups(r.Context(), q.Get("machine"), q.Get("repository"))
	if list == nil {
		list = []backup.Snapshot{}
	}
	answer(w, list, err)
}

func (d *daemon) postVerify(w http.ResponseWriter, r *http.Request) {
	var q requests.Verify
	if !control.ReadRequest(w, r, &q) {
		return
	}
	v, err := d.backups.Verify(r.Context(), q.Machine, q.Snapshot, q.Repository, q.Percent)
	answer(w, v, err)
}

func (d *daemon) postBackup(w http.ResponseWriter, r *http.Request) {
	var q requests.Backup
	if !control.ReadRequest(w, r, &q) {
		return
	}
	s, err := d.backups.Backup(r.Context(), r.PathValue("name"), q.Repository, q.Bundle)
	answer(w, s, err)
}

func (d *daemon) postRestore(w http.ResponseWriter, r *http.Request) {
	var q requests.Restore
	if !control.ReadRequest(w, r, &q) {
		return
	}
	what := backups.Restore{Machine: q.Machine, Snapshot: q.Snapshot, Repository: q.Repository, As: r.PathValue("name")}
	if q.Replay {
		t, err := target(q)
		if err != nil {
			control.WriteError(w, err)
			return
		}
		what.Moment = &backups.Moment{Target: t}
	}
	if q.InPlace {
		if q.Machine != what.As || q.Bundle != nil {
			control.WriteError(w, fault.Errorf(fault.Usage, "a restore in place is of the machine's own backup, and has no bundle"))
			return
		}
		what.As = ""
	}
	var res *runtime.RestoreResult
	restore := func(from *machine.Source) error {
		what.Bundle = from
		var err error
		res, err = d.backups.Restore(r.Context(), what)
		return err
	}
	var err error
	if q.Bundle != nil {
		err = d.withBundle(r.Context(), *q.Bundle, func(from machine.Source) error { return restore(&from) })
	} else {
		err = restore(nil)
	}
	d.look()
	answer(w, res, err)
}

// target is the moment that a restore asks for.
func target(q requests.Restore) (t backup.Target, err error) {
	t.Point = q.Point
	if q.To != "" {
		if t.Time, err = backup.ParseTime(q.To); err != nil {
			return t, err
		}
	}
	if q.LSN != "" {
		if t.LSN, err = wal.ParseLSN(q.LSN); err != nil {
			return t, err
		}
	}
	return t, t.Check()
}

func (d *daemon) postRecover(w http.ResponseWriter, r *http.Request) {
	var q requests.Recover
	if !control.ReadRequest(w, r, &q) {
		return
	}
	res, err := d.backups.Recover(r.Context(), r.PathValue("name"), q.Repository)
	d.look()
	answer(w, res, err)
}

func (d *daemon) getLogs(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	list, err := d.backups.Logs(r.Context(), q.Get("machine"), q.Get("repository"))
	if list == nil {
		list = []backup.Log{}
	}
	answer(w, list, err)
}

// postFiles sends files of a backup as a raw stream, which ends with its end
// only where all was sent.
func (d *daemon) postFiles(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	what := backups.Restore{Machine: q.Get("machine"), Snapshot: q.Get("snapshot"), Repository: q.Get("repository")}
	d.sendOf(w, r, "files of a backup", what.Machine, func(begin func() (io.WriteCloser, error)) error {
		return d.backups.Files(r.Context(), what, q["path"], begin)
	})
}

// postTables sends tables of a backup likewise, as SQL.
func (d *daemon) postTables(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	what := backups.Restore{Machine: q.Get("machine"), Snapshot: q.Get("snapshot"), Repository: q.Get("repository")}
	t, err := target(requests.Restore{To: q.Get("to"), LSN: q.Get("lsn"), Point: q.Get("point")})
	if err != nil {
		control.WriteError(w, err)
		return
	}
	if !t.IsEnd() {
		what.Moment = &backups.Moment{Target: t}
	}
	d.sendOf(w, r, "tables of a backup", what.Machine, func(begin func() (io.WriteCloser, error)) error {
		return d.backups.Tables(r.Context(), what, backups.Tables{Database: q.Get("database"), Names: q["table"]}, begin)
	})
}

// sendOf accepts a stream when what is sent has begun, and answers with an error
// before that.
func (d *daemon) sendOf(w http.ResponseWriter, r *http.Request, what, name string, send func(begin func() (io.WriteCloser, error)) error) {
	var s *control.Stream
	err := send(func() (io.WriteCloser, error) {
		var err error
		s, err = control.Accept(w, r)
		return sending{s}, err
	})
	switch {
	case s != nil:
		if err != nil {
			d.report(name, what+": "+err.Error())
		}
		s.Close()
	case err != nil:
		control.WriteError(w, err)
	}
}

// sending ends a stream in order.
type sending struct{ *control.Stream }

func (s sending) Close() error { return s.CloseWrite() }

func (d *daemon) deleteRestore(w http.ResponseWriter, r *http.Request) {
	if i := d.instance(w, r); i != nil {
		n, err := i.ForgetFormerDisks(r.Context())
		answer(w, requests.Forgotten{Disks: n}, err)
	}
}

func (d *daemon) postDrill(w http.ResponseWriter, r *http.Request) {
	var q requests.Drill
	if !control.ReadRequest(w, r, &q) {
		return
	}
	res, err := d.backups.Drill(r.Context(), r.PathValue("name"), q.Snapshot, q.Repository, q.NoLog)
	answer(w, res, err)
}

func (d *daemon) putPolicy(w http.ResponseWriter, r *http.Request) {
	var q requests.Policy[backup.Policy]
	if !control.ReadRequest(w, r, &q) {
		return
	}
	answer(w, struct{}{}, d.backups.SetPolicy(r.Context(), r.PathValue("name"), q.Policy))
}

// closeBackups ends the conversations of drills.
func (d *daemon) closeBackups() {
	if d.backups == nil {
		return
	}
	_ = d.backups.Close() // of conversations with itself there is nothing to tell
	d.talks.Wait()
}
