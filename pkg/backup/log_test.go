package backup

import (
	"testing"
	"time"

	"github.com/sovereign-build/sovereign/pkg/backup/wal"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

func TestLogPosition(t *testing.T) {
	p := LogPosition{"postgresql", "0123456789abcdef", 2, 0x3000060, 0x3000100}
	if got, err := ParseLogPosition(p.String()); err != nil || got != p {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{"", "postgresql", "postgresql 0123456789abcdef 2 0/2 0/1", "postgresql 0123456789abcdef 0 0/1 0/2",
		"../x 0123456789abcdef 1 0/1 0/2", "postgresql 0123456789ABCDEF 1 0/1 0/2", "postgresql 0123456789abcdef 1 0/1 0/2 more"} {
		if _, err := ParseLogPosition(text); fault.ClassOf(err) != fault.Verification {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestTarget(t *testing.T) {
	for _, text := range []string{"2026-03-01", "2026-03-01T14:30:00", "2026-03-01 14:30:00Z", "yesterday", "1772375400"} {
		if _, err := ParseTime(text); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%q: %v", text, err)
		}
	}
	at, err := ParseTime("2026-03-01T15:30:00.5+01:00")
	if err != nil || !at.Equal(time.Date(2026, 3, 1, 14, 30, 0, 500_000_000, time.UTC)) {
		t.Errorf("%v, %v", at, err)
	}
	for _, bad := range []Target{{Time: at, LSN: 5}, {LSN: 5, Point: "x"}, {Point: "a\nb"}, {Point: string(make([]byte, 64))}} {
		if err := bad.Check(); fault.ClassOf(err) != fault.Usage {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if !(Target{}).IsEnd() || (Target{Point: "x"}).IsEnd() {
		t.Error("what is the end of the log?")
	}
}

func FuzzParseLog(f *testing.F) {
	f.Add([]byte(`{"schema":1,"machine":"sql","service":"postgresql","branch":{"id":"0123456789abcdef","system":"5","segment":16777216,"timeline":1,"start":"0/1000000","began":"2026-01-01T00:00:00Z","why":"a test"},"extent":{"from":"0/1000000","to":"0/1000100","last":"0/1000060"},"at":"2026-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseLog(b)
		if err == nil && (l.Extent.From > l.Extent.To || wal.CheckSegmentSize(l.Branch.Segment) != nil) {
			t.Errorf("%+v", l)
		}
	})
}

func FuzzParseLogPosition(f *testing.F) {
	f.Add("postgresql 0123456789abcdef 2 0/3000060 0/3000100")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := ParseLogPosition(text); err == nil {
			if again, err := ParseLogPosition(p.String()); err != nil || again != p {
				t.Errorf("%+v, %+v, %v", p, again, err)
			}
		}
	})
}
