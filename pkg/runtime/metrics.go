package runtime

import (
	"fmt"
	"io"
	"strconv"
	"time"
)

// metric is a family of what a host measures of a machine, in Prometheus' text
// format.
type metric struct {
	name, kind, help string
	value            func(s Status, now time.Time) (float64, bool)
}

// metrics are those of WriteMetrics. Ages are the reader's business: moments are
// in seconds since 1970.
var metrics = []metric{
	{"sovereign_machine_running", "gauge", "1 while the machine runs", func(s Status, _ time.Time) (float64, bool) {
		return number(s.State == Running), true
	}},
	ofBackup("sovereign_backup_timestamp_seconds", "moment of the newest backup that this device has made", func(b *BackupStatus) (float64, bool) {
		return done(b.Last)
	}),
	ofBackup("sovereign_backup_proven_timestamp_seconds", "when a drill last proved a restore", func(b *BackupStatus) (float64, bool) {
		return done(b.Proven)
	}),
	ofBackup("sovereign_backup_proven_seconds", "how long that restore took, until services were healthy", func(b *BackupStatus) (float64, bool) {
		if b.Proven == nil {
			return 0, false
		}
		return b.Proven.TookS, true
	}),
	ofBackup("sovereign_backup_proven_log_timestamp_seconds", "moment until which that restore replayed the log", func(b *BackupStatus) (float64, bool) {
		if b.Proven == nil || b.Proven.Log == nil {
			return 0, false
		}
		return moment(b.Proven.Log.Time)
	}),
	ofBackup("sovereign_backup_alarms", "alarms of the machine's backups", func(b *BackupStatus) (float64, bool) {
		return float64(len(b.Alarms)), true
	}),
	ofLog("sovereign_log_receiving", "1 while the log is received", func(l *LogStatus, _ time.Time) (float64, bool) {
		return number(l.Receiving), true
	}),
	ofLog("sovereign_log_lag_bytes", "what the service has of its log beyond what the device has, as it said last", func(l *LogStatus, _ time.Time) (float64, bool) {
		return float64(l.Lag), true
	}),
	ofLog("sovereign_log_lag_seconds", "for how long the device has not had all of the log; since its newest transaction where it is being received", func(l *LogStatus, now time.Time) (float64, bool) {
		since := l.Since
		switch {
		case l.Receiving && l.Lag == 0:
			return 0, true
		case l.Receiving:
			since = l.Newest
		}
		return max(0, now.Sub(since).Seconds()), !since.IsZero()
	}),
	ofLog("sovereign_log_stored_timestamp_seconds", "when the repository was last given something of the log", func(l *LogStatus, _ time.Time) (float64, bool) {
		return moment(l.StoredAt)
	}),
	ofLog("sovereign_log_unstored_bytes", "what the device has of the log beyond what the repository has", func(l *LogStatus, _ time.Time) (float64, bool) {
		return float64(max(l.Kept, l.Stored) - l.Stored), true
	}),
	ofLog("sovereign_log_breaks", "places where the log does not go on from what was kept, of those that are remembered", func(l *LogStatus, _ time.Time) (float64, bool) {
		return float64(len(l.Breaks)), true
	}),
	ofLog("sovereign_log_lost", "1 where what the log had is on no disk, and recover brings it back", func(l *LogStatus, _ time.Time) (float64, bool) {
		for _, b := range l.Breaks {
			if b.Lost {
				return 1, true
			}
		}
		return 0, true
	}),
	ofLog("sovereign_log_synchronous", "1 while commits wait until the device has their log", func(l *LogStatus, _ time.Time) (float64, bool) {
		return number(l.Synchronous != nil && l.Synchronous.On), true
	}),
}

func ofBackup(name, help string, value func(*BackupStatus) (float64, bool)) metric {
	return metric{name, "gauge", help, func(s Status, _ time.Time) (float64, bool) {
		if s.Backup == nil {
			return 0, false
		}
		return value(s.Backup)
	}}
}

func ofLog(name, help string, value func(*LogStatus, time.Time) (float64, bool)) metric {
	return metric{name, "gauge", help, func(s Status, now time.Time) (float64, bool) {
		if s.Backup == nil || s.Backup.Log == nil {
			return 0, false
		}
		return value(s.Backup.Log, now)
	}}
}

func done(d *BackupDone) (float64, bool) {
	if d == nil {
		return 0, false
	}
	return moment(d.At)
}

func moment(t time.Time) (float64, bool) { return float64(t.UnixMilli()) / 1000, !t.IsZero() }

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// WriteMetrics writes what the host of machines knows of them at a moment, their
// backups and the logs of their services, in Prometheus' text format. What their
// guests measure is Machine.Metrics; no name is in both.
func WriteMetrics(w io.Writer, machines []Status, now time.Time) error {
	for _, m := range metrics {
		head := false
		for _, s := range machines {
			v, ok := m.value(s, now)
			if !ok {
				continue
			}
			if !head {
				head = true
				if _, err := fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", m.name, m.help, m.name, m.kind); err != nil {
					return err
				}
			}
			// A name has nothing that the format would write otherwise than Go.
			if _, err := fmt.Fprintf(w, "%s{machine=%q} %s\n", m.name, s.Name, strconv.FormatFloat(v, 'f', -1, 64)); err != nil {
				return err
			}
		}
	}
	return nil
}
