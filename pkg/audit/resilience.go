package audit

import (
	"fmt"
	"strings"
	"time"
)

func round(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }

// freezes: a copy of a disk while it is written is of no moment at all. A frozen
// file system is one that could be taken away.
func freezes(f *Facts) verdict {
	if f.Machine == nil {
		return needsRun("")
	}
	t := f.Machine.Freeze
	switch {
	case t == nil:
		return needsTrial("", "writes of the services would wait for it")
	case t.Err != "":
		return failed("", "the data file system could not be frozen: %s", t.Err).by(ReadLog, "read the log of the guest's init")
	case !t.Held:
		return failed("frozen, and a write ended all the same", "a copy made then would not be of one moment").by(ReadLog, "read the kernel's log")
	case !t.After:
		return failed("thawed, and a write did not end", "the services cannot go on").by("", "restart the machine")
	}
	return proven("frozen for %s, in which a write waited; it ended after the thaw", round(t.Took))
}

func supervision(f *Facts) verdict {
	if f.Machine == nil {
		return needsRun("")
	}
	m := f.Machine
	policy := "the machine is started again when it ends"
	if !m.Restarts {
		policy = "the machine is not started again when it ends"
	}
	if !m.Supervised {
		return failed(policy, "no sovereignd is there to do so").by("", "start sovereignd, with the host's start too")
	}
	seen := []string{policy}
	for _, h := range m.Heals {
		if h.Err != "" || h.New == 0 || h.New == h.Old {
			return failed(fmt.Sprintf("%s was killed (process %d)", h.Service, h.Old), "it was not started again: %s", orNothing(h.Err)).
				by(ReadLog, "read the log of the guest's init")
		}
		if !h.Healthy {
			return failed(fmt.Sprintf("%s was killed, and runs as process %d", h.Service, h.New), "it did not become healthy as it was before").
				by(ReadLog, "read the service's log")
		}
		seen = append(seen, fmt.Sprintf("%s was killed and healthy again after %s", h.Service, round(h.Took)))
	}
	if d := m.Daemon; d != nil {
		switch {
		case !d.Tried:
			seen = append(seen, "sovereignd was not killed: "+d.Err)
		case d.Err != "" || d.New == 0:
			return failed(strings.Join(seen, "; "), "sovereignd was killed, and no other took its place: %s", orNothing(d.Err)).
				by("", "start sovereignd, with the host's start too")
		case !d.Kept:
			return failed(strings.Join(seen, "; "), "sovereignd was killed, and the machine ended with it").by("", "look what ended the hypervisor: it must have a session of its own")
		default:
			seen = append(seen, fmt.Sprintf("sovereignd was killed, and the next one had the machine after %s", round(d.Took)))
		}
	}
	all := strings.Join(seen, "; ")
	switch {
	case len(m.Heals) == 0:
		return needsTrial(all, "only a kill shows that it is healed")
	case !m.Restarts:
		return unproven(all, "its owner asked for no restart of the machine").by(KeepUp, "want the machine up, with the policy to restart it always")
	}
	return proven("%s", all)
}

func orNothing(s string) string {
	if s == "" {
		return "nothing was said"
	}
	return s
}

// durable are settings without which a crash loses what was committed, or more.
var durable = []string{"fsync", "full_page_writes", "synchronous_commit"}

func crashRecovery(f *Facts) verdict {
	if v, none := f.withoutPostgreSQL(); none {
		return v
	}
	if f.Machine == nil {
		want := map[string]string{}
		for _, key := range durable {
			want[key] = "on"
		}
		return f.conf(want, durable...)
	}
	var seen []string
	for _, key := range append([]string{"data_checksums"}, durable...) {
		s, v, done := f.setting(key)
		if done {
			return v
		}
		seen = append(seen, key+" = "+s.Value)
		if s.Value == "off" {
			return failed(s.String(key), "a crash may lose what was committed, or the database").by(ResetSetting, "take the setting back")
		}
	}
	all := strings.Join(seen, ", ")
	switch t := f.Machine.Crash; {
	case t == nil:
		return needsTrial(all, "only a crash shows the recovery")
	case t.Err != "":
		return failed(all, "after a kill of the postmaster: %s", t.Err).by(ReadLog, "read PostgreSQL's log")
	case t.Recovered == "":
		return failed(all, "PostgreSQL's log tells of no recovery after the kill").by(ReadLog, "read PostgreSQL's log")
	case !t.Kept:
		return failed(all, "a row that was committed before the kill is gone").by("", "do not trust this disk: it forgets what it was told to keep")
	default:
		return proven("%s; the postmaster was killed, and answered again after %s with the row committed before; its log: %s", all, round(t.Took), t.Recovered)
	}
}
