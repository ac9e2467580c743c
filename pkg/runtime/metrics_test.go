package runtime_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/backup"
	"github.com/sovereign-build/sovereign/pkg/runtime"
)

func TestWriteMetrics(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	write := func(machines ...runtime.Status) string {
		t.Helper()
		var b strings.Builder
		if err := runtime.WriteMetrics(&b, machines, at); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if got := write(); got != "" {
		t.Errorf("of no machine: %q", got)
	}
	plain := runtime.Status{Name: "forge", State: runtime.Stopped}
	if got := write(plain); got != "# HELP sovereign_machine_running 1 while the machine runs\n# TYPE sovereign_machine_running gauge\nsovereign_machine_running{machine=\"forge\"} 0\n" {
		t.Errorf("%q", got)
	}
	log := &runtime.LogStatus{Receiving: true, Kept: 1000, Lag: 24, Stored: 600, StoredAt: at.Add(-time.Minute), Newest: at.Add(-2 * time.Second),
		Synchronous: &runtime.Synchronous{On: true}, Breaks: []runtime.LogBreak{{}, {Lost: true}}}
	sql := runtime.Status{Name: "sql", State: runtime.Running, Backup: &runtime.BackupStatus{
		Last:   &runtime.BackupDone{At: at.Add(-time.Hour)},
		Proven: &runtime.BackupDone{At: at.Add(-2 * time.Hour), TookS: 41.5, Log: &backup.Reached{Time: at.Add(-3 * time.Hour)}},
		Log:    log, Alarms: []string{"one"},
	}}
	got := write(plain, sql)
	for _, line := range []string{
		`sovereign_machine_running{machine="sql"} 1`,
		`sovereign_backup_timestamp_seconds{machine="sql"} 1767319445`,
		`sovereign_backup_proven_timestamp_seconds{machine="sql"} 1767315845`,
		`sovereign_backup_proven_seconds{machine="sql"} 41.5`,
		`sovereign_backup_proven_log_timestamp_seconds{machine="sql"} 1767312245`,
		`sovereign_backup_alarms{machine="sql"} 1`,
		`sovereign_log_receiving{machine="sql"} 1`,
		`sovereign_log_lag_bytes{machine="sql"} 24`,
		`sovereign_log_lag_seconds{machine="sql"} 2`,
		`sovereign_log_stored_timestamp_seconds{machine="sql"} 1767322985`,
		`sovereign_log_unstored_bytes{machine="sql"} 400`,
		`sovereign_log_breaks{machine="sql"} 2`,
		`sovereign_log_lost{machine="sql"} 1`,
		`sovereign_log_synchronous{machine="sql"} 1`,
	} {
		if !strings.Contains(got, "\n"+line+"\n") {
			t.Errorf("%s is not in\n%s", line, got)
		}
	}
	if n := strings.Count(got, "# TYPE "); n != strings.Count(got, "# HELP ") || strings.Count(got, "sovereign_machine_running gauge") != 1 {
		t.Errorf("%d families:\n%s", n, got)
	}
	log.Receiving, log.Since, log.Breaks, log.Kept = false, at.Add(-time.Minute), nil, 0
	got = write(sql)
	for _, line := range []string{
		`sovereign_log_receiving{machine="sql"} 0`, `sovereign_log_lag_seconds{machine="sql"} 60`, `sovereign_log_lost{machine="sql"} 0`,
		`sovereign_log_unstored_bytes{machine="sql"} 0`,
	} {
		if !strings.Contains(got, "\n"+line+"\n") {
			t.Errorf("%s is not in\n%s", line, got)
		}
	}
}
