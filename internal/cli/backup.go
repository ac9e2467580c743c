package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/backup/wal"
	"github.com/sovereign-build/sovereign/pkg/fault"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// nameAndID takes NAME@ID apart.
func nameAndID(text string) (name, id string, err error) {
	name, id, at := strings.Cut(text, "@")
	if name == "" || at && id == "" {
		return "", "", fault.Errorf(fault.Usage, "%q is not NAME or NAME@ID", text).Hintf("see sovereign-build backups")
	}
	return name, id, nil
}

// withProgress does something that the device's events tell the progress of.
func withProgress[T any](ctx context.Context, s *session, machine, verb string, do func(context.Context) (T, error)) (T, error) {
	h, err := s.host()
	if err != nil {
		var none T
		return none, err
	}
	watch, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		meter := s.meter(verb)
		// What is lost of the progress is nothing that the result does not say.
		_ = h.Watch(watch, func(e runtime.Event) error {
			if p := e.Progress; p != nil && e.Machine == machine {
				meter(p.Done, p.Total)
			}
			return nil
		})
	}()
	v, err := do(ctx)
	stop()
	<-watched
	return v, err
}

func (s *session) backupCommand() *cobra.Command {
	var to string
	var withBundle bool
	cmd := &cobra.Command{
		Use:   "backup NAME",
		Short: "Back a machine up",
		Long: `Backup keeps a machine's data disk, as it was at one instant, in a repository,
and what is needed besides to have the machine again. The machine goes on: its
writes are held for some milliseconds. What the repository has already is not
sent again; interrupted, the next backup goes on with what was sent. It returns
when the backup is there and all that it leads to has been looked for.

With --with-bundle the bundle's files are in it as well, so that it is restored
where nothing else is.`,
		Example: `  sovereign-build backup sql
  sovereign-build backup sql --to away --with-bundle --json`,
		Args: operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			begin := time.Now()
			made, err := withProgress(cmd.Context(), s, m.Name(), "backed up", func(ctx context.Context) (backup.Snapshot, error) {
				return m.Backup(ctx, to, withBundle)
			})
			if err != nil {
				return err
			}
			return s.printer().result(made, func(w io.Writer) error {
				held := ""
				if made.Live {
					held = fmt.Sprintf(", writes were held for %.0f ms", made.HoldMS)
				}
				_, err := fmt.Fprintf(w, "%s@%s: %s read, %s new%s (%.1f s)\n", m.Name(), oneLine(made.ID), mebibytes(made.Read), mebibytes(made.Stored), held, time.Since(begin).Seconds())
				return err
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the `repository` (default: that of the machine's policy, or the only one)")
	cmd.Flags().BoolVar(&withBundle, "with-bundle", false, "keep the bundle's files as well")
	cmd.AddCommand(s.backupVerifyCommand(), s.backupDrillCommand(), s.backupPolicyCommand(), s.backupPointCommand())
	return exits(cmd, fault.Environment, fault.Source, fault.Verification, fault.Device)
}

func (s *session) backupsCommand() *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use:   "backups [NAME]",
		Short: "List backups",
		Long: `Backups lists the backups of a machine, or without a name of all machines, that
are in a repository, oldest first: also of machines that are, or were, on
another device. PROVEN is the last drill that restored it. Then come the logs
that are kept: any moment from FROM to TO can be restored, and of a gap between
two of them none.`,
		Example: `  sovereign-build backups sql
  sovereign-build backups --from away --json`,
		Args: optional("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := s.host()
			if err != nil {
				return err
			}
			list, err := h.Backups(cmd.Context(), strings.Join(args, ""), from)
			if err != nil {
				return err
			}
			logs, err := h.Logs(cmd.Context(), strings.Join(args, ""), from)
			if err != nil {
				return err
			}
			return s.printer().result(map[string]any{"backups": list, "logs": logs}, func(w io.Writer) error {
				return errors.Join(writeBackups(w, list), writeLogs(w, list, logs))
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the `repository` (default: that of the machine's policy, or the only one)")
	return exits(cmd, fault.Environment, fault.Source, fault.Verification, fault.Device)
}

func writeBackups(out io.Writer, list []backup.Snapshot) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	if len(list) == 0 {
		fmt.Fprintln(w, "there is no backup")
		return w.Flush()
	}
	fmt.Fprintln(w, "BACKUP\tAT\tDEVICE\tDISK\tNEW\tPROVEN")
	for _, b := range list {
		proven := "-"
		if p := b.Proven; p != nil {
			proven = fmt.Sprintf("%s, in %.0f s", p.At.Format(time.RFC3339), p.Took)
		}
		fmt.Fprintf(w, "%s@%s\t%s\t%s\t%s\t%s\t%s\n", oneLine(b.Machine), oneLine(b.ID), b.At.Format(time.RFC3339), oneLine(b.Host), mebibytes(b.Read), mebibytes(b.Stored), proven)
	}
	return w.Flush()
}

// writeLogs says which moments can be restored beside the backups'.
func writeLogs(out io.Writer, list []backup.Snapshot, logs []backup.Log) error {
	if len(logs) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "\nLOG\tFROM\tTO\tUNTIL\tPOINTS\tBEGAN BECAUSE")
	for _, l := range logs {
		from := "-" // no backup goes on by it
		for _, b := range list {
			if b.Log != nil && b.Log.Branch == l.Branch.ID {
				from = b.At.Format(time.RFC3339)
				break
			}
		}
		to := "-"
		if t := l.Covers(); !t.IsZero() {
			to = t.Format(time.RFC3339)
		}
		var points []string
		for _, p := range l.Extent.Points {
			points = append(points, oneLine(p.Name))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%v\t%s\t%s\n", oneLine(l.Machine), from, to, l.Extent.To, cmp.Or(strings.Join(points[max(0, len(points)-3):], " "), "-"), oneLine(l.Branch.Why))
	}
	return w.Flush()
}

// backupPointCommand marks a moment by a name.
func (s *session) backupPointCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "point NAME POINT",
		Short: "Give the present moment a name",
		Long: `Point has the PostgreSQL of a running machine set a restore point, so that this
moment can be restored by its name: restore NAME --point POINT. It is of use where
the log is kept (backup policy NAME --log).`,
		Example: `  sovereign-build backup point sql before-the-migration`,
		Args:    operands("NAME", "POINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := (backup.Target{Point: args[1]}).Check(); err != nil {
				return err
			}
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			var out, complaint strings.Builder
			code, err := m.Exec(cmd.Context(), agent.ExecRequest{
				Argv: []string{"psql", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", "--set=point=" + args[1], "--dbname=postgres"},
				User: postgresUser,
			}, agent.ExecIO{Stdin: strings.NewReader("SELECT pg_create_restore_point(:'point');"), Stdout: &out, Stderr: &complaint})
			if err == nil && code != 0 {
				err = fault.Errorf(fault.Device, "psql ended with %d: %s", code, oneLine(complaint.String()))
			}
			if err != nil {
				return err
			}
			lsn, err := wal.ParseLSN(strings.TrimSpace(out.String()))
			if err != nil {
				return fault.Errorf(fault.Device, "psql printed %.40q", out.String())
			}
			return s.printer().result(map[string]any{"name": m.Name(), "point": args[1], "lsn": lsn}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s: the point %s is at %v\n", m.Name(), args[1], lsn)
				return err
			})
		},
	}
	return exits(cmd, fault.Environment, fault.Device)
}

func (s *session) backupVerifyCommand() *cobra.Command {
	from, percent := "", 5.0
	cmd := &cobra.Command{
		Use:   "verify NAME[@ID]",
		Short: "Look for all that a machine's backups need",
		Long: `Verify looks whether all that a machine's backups lead to, or one of them, is in
the repository, and reads a part of it, which is held to the sums that were taken
from the disk. --read 100 reads all.`,
		Example: `  sovereign-build backup verify sql --read 100`,
		Args:    operands("NAME[@ID]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, id, err := nameAndID(args[0])
			if err != nil {
				return err
			}
			return s.runVerify(cmd.Context(), name, id, from, percent)
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the `repository` (default: that of the machine's policy, or the only one)")
	cmd.Flags().Float64Var(&percent, "read", percent, "`percent` of the disks' content that is read")
	return exits(cmd, fault.Environment, fault.Source, fault.Verification, fault.Device)
}

func (s *session) backupDrillCommand() *cobra.Command {
	var o runtime.DrillOptions
	cmd := &cobra.Command{
		Use:   "drill NAME[@ID]",
		Short: "Prove that a backup can be restored",
		Long: `Drill restores the newest backup, or that of an ID, into a machine that is
nobody's and has no network, waits until its services are healthy, and has them
check what they found: PostgreSQL every index and table, by pg_amcheck. Then the
machine is removed. Where the log is kept (backup policy NAME --log), the machine
replays it first, as far as the repository has it: the restore that is proven is
that of the newest moment. What was found stands in the repository, as a report
with the digest of the one before; status says when a restore was last proven, and
until which moment. What is wrong ends the command with 6.

With --no-log the backup is restored as it is, and its marks are compared with
those of then, which the log may have changed.`,
		Example: `  sovereign-build backup drill sql
  sovereign-build backup drill sql@k3x9 --no-log
  sovereign-build backup drill sql --from away --json`,
		Args: operands("NAME[@ID]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, id, err := nameAndID(args[0])
			if err != nil {
				return err
			}
			m, err := s.machine(name)
			if err != nil {
				return err
			}
			o.Snapshot = id
			d, err := m.Drill(cmd.Context(), o)
			if err != nil {
				return err
			}
			if err := s.printer().result(d, func(w io.Writer) error { return writeDrill(w, d) }); err != nil {
				return err
			}
			if d.Passed {
				return nil
			}
			return told{int(fault.Verification)}
		},
	}
	cmd.Flags().StringVar(&o.Repository, "from", "", "the `repository` (default: that of the machine's policy, or the only one)")
	cmd.Flags().BoolVar(&o.NoLog, "no-log", false, "leave the log out")
	return exits(cmd, fault.Environment, fault.Source, fault.Verification, fault.Device)
}

func writeDrill(out io.Writer, d backup.Drill) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, c := range d.Checks {
		verdict := "passed"
		switch {
		case c.Skipped != "":
			verdict, c.Said = "skipped", c.Skipped
		case !c.Passed:
			verdict = "FAILED"
		}
		fmt.Fprintf(w, "%s\t%s\t%.1f s\t%s\n", oneLine(c.Name), verdict, c.Seconds, oneLine(c.Said))
	}
	if d.Passed {
		fmt.Fprintf(w, "a restore of %s@%s%s is proven: %.1f s to the disk, %.1f s to healthy services\n", oneLine(d.Machine), oneLine(d.Snapshot), untilOf(d.Log), d.RestoreS, d.BootS)
	} else {
		fmt.Fprintf(w, "a restore of %s@%s is NOT proven\n", oneLine(d.Machine), oneLine(d.Snapshot))
	}
	return w.Flush()
}

// untilOf says how far a log was replayed; "" where none was.
func untilOf(r *backup.Reached) string {
	switch {
	case r == nil:
		return ""
	case r.Time.IsZero():
		return fmt.Sprintf(" and its log until %v", r.LSN)
	}
	return fmt.Sprintf(" and its log until %s (%v)", r.Time.UTC().Format(time.RFC3339Nano), r.LSN)
}

func (s *session) backupPolicyCommand() *cobra.Command {
	var to, every, keep, drill, when, logEvery, recoverFor string
	var off, withBundle, log, synchronous bool
	cmd := &cobra.Command{
		Use:   "policy NAME",
		Short: "Say what is backed up by itself",
		Long: `Policy says how often sovereignd backs a machine up, which backups are kept, and
how often a restore is proven; without flags it shows what is. Backups that are
late, that fail, or a repository that is away are alarms in status and in the
events.

Kept are the newest backups, and the newest of each of so many hours, days,
weeks, months and years; and always the last one that a drill has restored.

With --when a backup or a drill that is due waits until the device charges, or
its network costs nothing by use, and says so in status; after twice its time it
waits no more. Only phones say what their network costs.

With --log the log of the service that has one (PostgreSQL's) is kept as well, so
that any moment between backups can be restored: on the device about a second
after a transaction, and in the repository every --log-every.

With --synchronous as well no commit ends before the device has its log on its
disk: what was acknowledged outlives the guest and its data disk. The price is
that commits wait while the log is not received: sovereignd is not running, or the
device's disk is full. They are on the guest's own disk already, end by themselves
when the log is received again, and status says that they wait. To let them go,
also while they wait: --synchronous=false. A commit takes one write to the device's
disk longer. What the device has is lost with the device, but for what is in the
repository.`,
		Example: `  sovereign-build backup policy sql --to home --every 6h --keep latest=3,daily=7,weekly=5 --drill weekly
  sovereign-build backup policy sql --every daily --log --recover-for 7d
  sovereign-build backup policy sql --log --synchronous
  sovereign-build backup policy sql --off`,
		Args: operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := s.machine(args[0])
			if err != nil {
				return err
			}
			status, err := m.Status(cmd.Context())
			if err != nil {
				return err
			}
			p := &backup.Policy{}
			if status.Backup != nil && status.Backup.Policy != nil {
				p = status.Backup.Policy
			} else if off || !cmd.Flags().Changed("every") && !cmd.Flags().Changed("drill") && !log {
				p = nil
			}
			changed := false
			for _, name := range []string{"to", "every", "keep", "drill", "when", "with-bundle", "off", "log", "log-every", "recover-for", "synchronous"} {
				changed = changed || cmd.Flags().Changed(name)
			}
			if changed {
				if p == nil && !off {
					return fault.Errorf(fault.Usage, "--every, --drill or --log is missing").Hintf("write for example --every 6h --drill weekly")
				}
				if p, err = s.changedPolicy(cmd, p, to, every, keep, drill, off, withBundle); err != nil {
					return err
				}
				if p != nil && cmd.Flags().Changed("when") {
					if p.When, err = backup.ParseWhen(when); err != nil {
						return err
					}
				}
				if err := changedLog(cmd, p, log, synchronous, logEvery, recoverFor); err != nil {
					return err
				}
				if err := m.SetBackupPolicy(cmd.Context(), p); err != nil {
					return err
				}
			}
			return s.printer().result(map[string]any{"name": m.Name(), "policy": p}, func(w io.Writer) error { return writePolicy(w, m.Name(), p) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&to, "to", "", "the `repository` (default: the only one)")
	f.StringVar(&every, "every", "", "the `time` between two backups: 30m, 6h, daily, never")
	f.StringVar(&keep, "keep", "", "which are `kept`: latest=3,daily=7,weekly=5,monthly=12, or all (default all)")
	f.StringVar(&drill, "drill", "", "the `time` between two drills: daily, weekly, never")
	f.StringVar(&when, "when", "", "what the device has to be, unless it is overdue: `conditions`: charging, unmetered, both with a comma between, or always (default always)")
	f.BoolVar(&withBundle, "with-bundle", false, "keep the bundle's files as well")
	f.BoolVar(&log, "log", false, "keep the log as well, so that any moment can be restored; --log=false ends that")
	f.StringVar(&logEvery, "log-every", "", "the `time` until the log is in the repository: 10s, 1m (default 1m)")
	f.StringVar(&recoverFor, "recover-for", "", "for how `long` back any moment can be restored: 7d, 30d (default: as long as there are backups)")
	f.BoolVar(&synchronous, "synchronous", false, "commits wait until the device has their log; --synchronous=false ends that")
	f.BoolVar(&off, "off", false, "do nothing by itself any more")
	return exits(cmd, fault.Environment, fault.Device)
}

// changedLog changes what a policy says of the log.
func changedLog(cmd *cobra.Command, p *backup.Policy, log, synchronous bool, every, recoverFor string) error {
	if p == nil {
		return nil
	}
	f := cmd.Flags()
	switch {
	case f.Changed("log") && !log:
		p.LogS, p.RecoverForS, p.Synchronous = 0, 0, false
	case log && p.LogS == 0:
		p.LogS = int64(backup.DefaultLog / time.Second)
	}
	if f.Changed("synchronous") {
		p.Synchronous = synchronous
	}
	if f.Changed("log-every") {
		d, err := time.ParseDuration(every)
		if err != nil || d%time.Second != 0 {
			return fault.Errorf(fault.Usage, "--log-every: %.40q is no time", every).Hintf("write for example 10s or 1m")
		}
		p.LogS = int64(d / time.Second)
	}
	if f.Changed("recover-for") {
		d, err := backup.ParseInterval(recoverFor)
		if err != nil {
			return fmt.Errorf("--recover-for: %w", err)
		}
		p.RecoverForS = int64(d / time.Second)
	}
	return nil
}

func (s *session) changedPolicy(cmd *cobra.Command, p *backup.Policy, to, every, keep, drill string, off, withBundle bool) (*backup.Policy, error) {
	if off {
		return nil, nil
	}
	f := cmd.Flags()
	var errs []error
	interval := func(flag, text string, into *int64) {
		if !f.Changed(flag) {
			return
		}
		d, err := backup.ParseInterval(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
		*into = int64(d / time.Second)
	}
	interval("every", every, &p.EveryS)
	interval("drill", drill, &p.DrillS)
	if f.Changed("keep") {
		var err error
		if p.Keep, err = backup.ParseKeep(keep); err != nil {
			errs = append(errs, err)
		}
	}
	if f.Changed("with-bundle") {
		p.Bundle = withBundle
	}
	if to != "" {
		p.Repository = to
	}
	if p.Repository == "" {
		h, err := s.host()
		if err != nil {
			return nil, err
		}
		list, err := h.Repositories(cmd.Context())
		switch {
		case err != nil:
			return nil, err
		case len(list) != 1:
			errs = append(errs, fault.Errorf(fault.Usage, "--to is missing: the device has %d repositories", len(list)).
				Hintf("see sovereign-build repository list"))
		default:
			p.Repository = list[0].Name
		}
	}
	return p, errors.Join(errs...)
}

func writePolicy(w io.Writer, name string, p *backup.Policy) error {
	if p == nil {
		_, err := fmt.Fprintf(w, "%s is not backed up by itself\n", name)
		return err
	}
	interval := func(d time.Duration) string {
		if d == 0 {
			return "never by itself"
		}
		return "every " + d.String()
	}
	text := ""
	for _, c := range p.When {
		text += ", when " + string(c)
	}
	if p.Log() > 0 {
		text += ", its log every " + p.Log().String()
	}
	if p.Synchronous {
		text += ", for which commits wait"
	}
	_, err := fmt.Fprintf(w, "%s: backup %s to %s, keep %s, drill %s%s\n", name, interval(p.Every()), oneLine(p.Repository), p.Keep, interval(p.Drill()), text)
	return err
}

// writeLog writes how far a log is kept.
func writeLog(w io.Writer, l *runtime.LogStatus) {
	if l == nil {
		return
	}
	stored := "not in the repository yet"
	if !l.StoredAt.IsZero() {
		stored = fmt.Sprintf("in the repository until %v, since %s", l.Stored, l.StoredAt.Format(time.RFC3339))
	}
	if l.Receiving {
		fmt.Fprintf(w, "  log\treceived, until %v\t%s\n", l.Kept, stored)
	} else {
		fmt.Fprintf(w, "  log\tnot received\t%s\n", stored)
	}
	switch s := l.Synchronous; {
	case s == nil:
	case !s.On:
		fmt.Fprintf(w, "  commits\tnot seen to wait for it\t%s\n", oneLine(s.Why))
	default:
		fmt.Fprintf(w, "  commits\twait for it\t%s\n", oneLine(s.Why))
	}
}

// writeBackup writes what is known of a machine's backups into its status.
func writeBackup(w io.Writer, b *runtime.BackupStatus) {
	if b == nil {
		return
	}
	if d := b.Last; d != nil {
		fmt.Fprintf(w, "  backup\t%s\t%s, took %.1f s\n", d.At.Format(time.RFC3339), oneLine(d.Snapshot), d.TookS)
	} else {
		fmt.Fprintf(w, "  backup\tnone\t\n")
	}
	if d := b.Proven; d != nil {
		fmt.Fprintf(w, "  restore proven\t%s\t%s%s, in %.1f s\n", d.At.Format(time.RFC3339), oneLine(d.Snapshot), untilOf(d.Log), d.TookS)
	} else {
		fmt.Fprintf(w, "  restore proven\tnever\t\n")
	}
	writeLog(w, b.Log)
	if b.Waiting != "" {
		fmt.Fprintf(w, "  backup waits\t\tuntil the device is: %s\n", oneLine(b.Waiting))
	}
	for _, a := range b.Alarms {
		fmt.Fprintf(w, "  ALARM\t\t%s\n", oneLine(a))
	}
}
