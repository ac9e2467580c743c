package runtime

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/sovereign-build/sovereign/internal/requests"
	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/backup/wal"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// What Progress is of.
const (
	ProgressBackup  = "backup"
	ProgressRestore = "restore"
	ProgressVerify  = "verify"
)

// Progress is how far something that takes time has come, in bytes.
type Progress struct {
	Verb  string `json:"verb"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
}

// BackupStatus is what is known of a machine's backups.
type BackupStatus struct {
	Policy *backup.Policy `json:"policy,omitempty"`
	// Last is the newest backup that this device made, and Proven the newest
	// restore that a drill has proven; nil: none.
	Last   *BackupDone `json:"last,omitempty"`
	Proven *BackupDone `json:"proven,omitempty"`
	// Waiting is which of the policy's conditions the device does not fulfil, so
	// that what is due waits; "" where nothing does.
	Waiting string `json:"waiting,omitempty"`
	// Log is how far the log of changes is kept; nil where none is.
	Log *LogStatus `json:"log,omitempty"`
	// Alarms are in words; none: all is as the policy has it.
	Alarms []string `json:"alarms,omitempty"`
}

// LogStatus is how far a service's log of changes is kept.
type LogStatus struct {
	Service string `json:"service"`
	Branch  string `json:"branch"`
	// Receiving: the service sends it now. Else Since is since when not.
	Receiving bool      `json:"receiving"`
	Since     time.Time `json:"since,omitzero"`
	// Kept is until where it is on the device's disk, and Lag what the service
	// has beyond that, in bytes.
	Kept wal.LSN `json:"kept"`
	Lag  int64   `json:"lag"`
	// Newest is when the newest transaction ended that is kept.
	Newest time.Time `json:"newest,omitzero"`
	// Stored is until where the repository has it, and StoredAt since when.
	Stored   wal.LSN   `json:"stored"`
	StoredAt time.Time `json:"stored_at,omitzero"`
	// Synchronous is of commits that are to wait for the log; nil: they are not.
	Synchronous *Synchronous `json:"synchronous,omitempty"`
	// Breaks are where it does not go on from what was kept before, newest last.
	Breaks []LogBreak `json:"breaks,omitempty"`
}

// Synchronous says whether commits wait until the device has their log.
type Synchronous struct {
	// On: the server was seen to wait. It also does where nobody receives: then no
	// commit ends.
	On bool `json:"on"`
	// Why is what is missing; "" for nothing.
	Why string `json:"why,omitempty"`
}

// LogBreak is where a log does not go on.
type LogBreak struct {
	At     time.Time `json:"at"`
	Branch string    `json:"branch"` // that has ended
	Kept   wal.LSN   `json:"kept"`   // until where that is kept
	Why    string    `json:"why"`
	// Lost: it ended otherwise than by a restore or by the owner's word: what it
	// has at its end is on no disk. Recover brings it back.
	Lost bool `json:"lost,omitempty"`
}

// BackupDone is a backup or a drill.
type BackupDone struct {
	Snapshot string    `json:"snapshot"`
	At       time.Time `json:"at"`
	TookS    float64   `json:"took_s"`
	// Log is how far a drill has replayed the log; nil: it did not.
	Log *backup.Reached `json:"log,omitempty"`
}

// Verified is what was found to be whole.
type Verified struct {
	Backups int     `json:"backups"`
	Read    int64   `json:"read"` // bytes of disks, each held to its sum
	TookS   float64 `json:"took_s"`
}

// RestoreResult is what a restore made.
type RestoreResult struct {
	Machine  string    `json:"machine"`
	Snapshot string    `json:"snapshot"`
	From     string    `json:"from"` // NAME@ID of REPOSITORY
	Taken    time.Time `json:"taken"`
	Bundle   string    `json:"bundle"` // digest
	Read     int64     `json:"read"`   // bytes of the disk, each held to its sum
	// New: the machine was made for it, and is isolated.
	New bool `json:"new,omitempty"`
	// Kept is the path of the disk that the machine had, on the host.
	Kept string `json:"kept,omitempty"`
	// Reached is how far the log was replayed; nil where none was.
	Reached *backup.Reached `json:"reached,omitempty"`
	Notes   []string        `json:"notes,omitempty"` // for people
	TookS   float64         `json:"took_s"`
}

// Repositories are those that the host knows, sorted by name.
func (h *Host) Repositories(ctx context.Context) ([]backup.Repository, error) {
	var list []backup.Repository
	err := h.ask(ctx, http.MethodGet, "/v1/repositories", nil, &list)
	return list, err
}

// AddRepository makes a repository known to the host: its sovereignd keeps what
// opens it, in a file for its user alone. With initialize the repository is
// made; without a key one is made for it, which is returned: who loses it loses
// the backups.
func (h *Host) AddRepository(ctx context.Context, r backup.Repository, s backup.Secrets, initialize bool) (key string, err error) {
	var answer requests.RepositoryAdded
	q := requests.AddRepository[backup.Secrets]{URL: r.URL, Secrets: s, Initialize: initialize}
	err = h.call(ctx, http.MethodPut, "/v1/repositories/"+url.PathEscape(r.Name), q, &answer)
	return answer.Key, err
}

// ForgetRepository has the host not know a repository any more. What is in it
// stays.
func (h *Host) ForgetRepository(ctx context.Context, name string) error {
	return h.call(ctx, http.MethodDelete, "/v1/repositories/"+url.PathEscape(name), nil, nil)
}

// Backups are those of a machine in a repository ("": the only one, or that of
// the machine's policy), oldest first; without a name those of all machines. The
// machine may be none of this host.
func (h *Host) Backups(ctx context.Context, machine, repository string) ([]backup.Snapshot, error) {
	var list []backup.Snapshot
	err := h.ask(ctx, http.MethodGet, "/v1/backups?"+url.Values{"machine": {machine}, "repository": {repository}}.Encode(), nil, &list)
	return list, err
}

// VerifyBackups looks for all that backups lead to, those of a machine or of
// all, and reads percent of their disks. What is damaged is an error of class
// fault.Verification.
func (h *Host) VerifyBackups(ctx context.Context, machine, id, repository string, percent float64) (Verified, error) {
	var v Verified
	q := requests.Verify{Machine: machine, Snapshot: id, Repository: repository, Percent: percent}
	err := h.call(ctx, http.MethodPost, "/v1/backups/verify", q, &v)
	return v, err
}

// Restore makes a new machine of a backup, wanted down and isolated: it has no
// network until Up activates it. Where neither the backup nor the host has its
// bundle, it is taken from bundleDir.
func (h *Host) Restore(ctx context.Context, machine, id, repository, as, bundleDir string, report Report) (RestoreResult, error) {
	q := requests.Restore{Machine: machine, Snapshot: id, Repository: repository}
	var r RestoreResult
	if bundleDir != "" {
		dir, manifest, err := loadBundle(bundleDir)
		if err != nil {
			return r, err
		}
		report.tell(PhaseInstall, "sending "+dir)
		digest, err := h.send(ctx, dir, manifest, report)
		if err != nil {
			return r, err
		}
		b, err := signedBundle(dir, digest)
		if err != nil {
			return r, err
		}
		q.Bundle = &b
	}
	err := h.call(ctx, http.MethodPost, machinePath(as, "restore"), q, &r)
	return r, err
}

// RestoreTo is Restore of a moment: the log that was kept is replayed on the
// newest backup before it, in a machine that nobody sees before it has come
// there. A moment that cannot be had is an error of class fault.Usage that says
// which can.
func (h *Host) RestoreTo(ctx context.Context, machine, id, repository, as string, t backup.Target) (RestoreResult, error) {
	var r RestoreResult
	err := h.call(ctx, http.MethodPost, machinePath(as, "restore"), restoreTo(machine, id, repository, t), &r)
	return r, err
}

func restoreTo(machine, id, repository string, t backup.Target) requests.Restore {
	q := requests.Restore{Machine: machine, Snapshot: id, Repository: repository, Replay: true, Point: t.Point}
	if !t.Time.IsZero() {
		q.To = t.Time.Format(time.RFC3339Nano)
	}
	if t.LSN != 0 {
		q.LSN = t.LSN.String()
	}
	return q
}

// Logs lists what a repository has of the logs of a machine, or without a name
// of all, oldest first: each goes on without a break.
func (h *Host) Logs(ctx context.Context, machine, repository string) ([]backup.Log, error) {
	var list []backup.Log
	q := url.Values{"machine": {machine}, "repository": {repository}}
	err := h.ask(ctx, http.MethodGet, "/v1/backups/logs?"+q.Encode(), nil, &list)
	return list, err
}

// RestoreFiles writes files and directories of a backup to w, by absolute paths
// in the guest, as a tar archive, and returns how many bytes that were.
func (h *Host) RestoreFiles(ctx context.Context, machine, id, repository string, paths []string, w io.Writer) (int64, error) {
	q := url.Values{"machine": {machine}, "snapshot": {id}, "repository": {repository}, "path": paths}
	return h.receive(ctx, "/v1/backups/files?"+q.Encode(), w)
}

// TablesOptions say which tables of which moment are wanted.
type TablesOptions struct {
	Snapshot   string // "": the newest
	Repository string // "": that of the machine's policy, or the only one
	// Target is a moment between backups, to which the log is replayed; zero: that
	// of the backup.
	Target   backup.Target
	Database string // "": postgres
	// Tables are patterns as pg_dump takes them; none: all of the database.
	Tables []string
}

// RestoreTables writes tables of a machine's PostgreSQL to w as SQL, as they were
// in a backup or at a moment, and returns how many bytes that were. The machine
// itself, if it is there, is not touched. A table that was not there is an error
// of class fault.Usage, with which nothing is written.
func (h *Host) RestoreTables(ctx context.Context, machine string, o TablesOptions, w io.Writer) (int64, error) {
	t := restoreTo(machine, o.Snapshot, o.Repository, o.Target)
	q := url.Values{"machine": {machine}, "snapshot": {o.Snapshot}, "repository": {o.Repository}, "database": {o.Database}, "table": o.Tables,
		"to": {t.To}, "lsn": {t.LSN}, "point": {t.Point}}
	return h.receive(ctx, "/v1/backups/tables?"+q.Encode(), w)
}

// receive writes a stream to w, whose end says that it is whole.
func (h *Host) receive(ctx context.Context, path string, w io.Writer) (int64, error) {
	conn, err := h.upgrade(ctx, path)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	n, err := io.Copy(w, conn)
	if ctx.Err() != nil {
		return n, context.Cause(ctx)
	}
	return n, fault.Wrap(fault.Device, err)
}

// Backup makes a backup in a repository ("": that of the machine's policy, or
// the only one), while the machine goes on. It is there when Backup returns.
// How far it has come is told by events of Watch.
func (m *Machine) Backup(ctx context.Context, repository string, withBundle bool) (backup.Snapshot, error) {
	var s backup.Snapshot
	err := m.h.call(ctx, http.MethodPost, machinePath(m.name, "backup"), requests.Backup{Repository: repository, Bundle: withBundle}, &s)
	return s, err
}

// RestoreInPlace puts the disk of a backup in the place of the machine's. One
// that runs is shut down for it, when the backup has been fetched, and goes on
// after. The disk that it had is kept, at RestoreResult.Kept, until
// ForgetFormerDisks.
func (m *Machine) RestoreInPlace(ctx context.Context, id, repository string) (RestoreResult, error) {
	var r RestoreResult
	q := requests.Restore{Machine: m.name, Snapshot: id, Repository: repository, InPlace: true}
	err := m.h.call(ctx, http.MethodPost, machinePath(m.name, "restore"), q, &r)
	return r, err
}

// RestoreInPlaceTo is RestoreInPlace of a moment, as Host.RestoreTo. The machine
// is shut down only when the moment has been reached.
func (m *Machine) RestoreInPlaceTo(ctx context.Context, id, repository string, t backup.Target) (RestoreResult, error) {
	var r RestoreResult
	q := restoreTo(m.name, id, repository, t)
	q.InPlace = true
	err := m.h.call(ctx, http.MethodPost, machinePath(m.name, "restore"), q, &r)
	return r, err
}

// Recover rolls the machine forward to the end of the log that was kept of it:
// what a disk that went back, or is lost, has to be made good with. The disk
// that it had is kept.
func (m *Machine) Recover(ctx context.Context, repository string) (RestoreResult, error) {
	var r RestoreResult
	err := m.h.call(ctx, http.MethodPost, machinePath(m.name, "recover"), requests.Recover{Repository: repository}, &r)
	return r, err
}

// ForgetFormerDisks removes the disks whose place restored ones have taken, and
// returns how many there were.
func (m *Machine) ForgetFormerDisks(ctx context.Context) (int, error) {
	var r requests.Forgotten
	err := m.h.call(ctx, http.MethodDelete, machinePath(m.name, "restore"), nil, &r)
	return r.Disks, err
}

// DrillOptions say which backup a drill is of.
type DrillOptions struct {
	Snapshot   string // "": the newest
	Repository string // "": that of the machine's policy, or the only one
	// NoLog leaves the log out: the restore is proven of the backup alone.
	NoLog bool
}

// Drill restores a backup into a machine without a network that is nobody's,
// has it replay its log to the end, its services checked, and leaves a report in
// the repository. What it found is in the report: see its Failed.
func (m *Machine) Drill(ctx context.Context, o DrillOptions) (backup.Drill, error) {
	var d backup.Drill
	q := requests.Drill{Snapshot: o.Snapshot, Repository: o.Repository, NoLog: o.NoLog}
	err := m.h.call(ctx, http.MethodPost, machinePath(m.name, "drill"), q, &d)
	return d, err
}

// SetBackupPolicy writes down what sovereignd does by itself; nil: nothing.
func (m *Machine) SetBackupPolicy(ctx context.Context, p *backup.Policy) error {
	return m.h.ask(ctx, http.MethodPut, machinePath(m.name, "backup-policy"), requests.Policy[backup.Policy]{Policy: p}, nil)
}

// CheckRestored has the guest's services say whether what they found on a disk
// that was restored is whole; those that have nothing to say are absent.
func (m *Machine) CheckRestored(ctx context.Context) (found map[string]agent.RestoredService, err error) {
	err = m.guest(ctx, func(c *agent.Client) error {
		found, err = c.CheckRestored(ctx)
		return err
	})
	return found, err
}
