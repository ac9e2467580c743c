package audit

// Schema is the version of a report's JSON.
const Schema = 1

// Verdict is what became of an item.
type Verdict string

// Verdicts.
const (
	// Proven: what was seen is as it should be.
	Proven Verdict = "proven"
	// Failed: what was seen is not as it should be.
	Failed Verdict = "failed"
	// NotProven: it could not be seen here, and Why says for what reason.
	NotProven Verdict = "not-proven"
	// NotApplicable: there is no such trap here, and Why says how that is known.
	NotApplicable Verdict = "not-applicable"
)

// Remedy names what mends a row, or proves it, so that a program can offer it in
// its own words; Row.Mend says the same to people. Remedies are only ever added.
type Remedy string

// Remedies.
const (
	// Rebuild is to change the recipe, or a port, and to build the bundle anew.
	Rebuild Remedy = "rebuild"
	// RunIt is to run the bundle, and to audit the machine.
	RunIt Remedy = "run"
	// Disturb is to audit once more, with trials that disturb the machine.
	Disturb Remedy = "disturb"
	// KeepUp is to have sovereignd start the machine again whenever it ends.
	KeepUp Remedy = "keep-up"
	// ResetSetting is to take a setting of PostgreSQL back.
	ResetSetting Remedy = "reset-setting"
	// Reindex is to rebuild indexes of PostgreSQL after a change of collation.
	Reindex Remedy = "reindex"
	// GiveAuthKey is to hand an auth key of a tailnet over.
	GiveAuthKey Remedy = "give-auth-key"
	// ReadLog is to read what a service wrote.
	ReadLog Remedy = "read-log"
)

// Row is one item. Its JSON is part of what scripts rely on.
type Row struct {
	Number int    `json:"number"` // 1 to 22
	Part   string `json:"part"`   // "host", "guest", "kernel", …
	Item   string `json:"item"`
	// Looked is what was looked at, and Seen what was seen there; Seen is empty
	// where nothing could be seen.
	Looked  string  `json:"looked_at"`
	Seen    string  `json:"seen"`
	Verdict Verdict `json:"verdict"`
	// Why is the reason of every other verdict than Proven.
	Why    string `json:"why,omitempty"`
	Mend   string `json:"mend,omitempty"` // what to do about it
	Remedy Remedy `json:"remedy,omitempty"`
}

// Counts are the rows of each verdict.
type Counts struct {
	Proven        int `json:"proven"`
	Failed        int `json:"failed"`
	NotProven     int `json:"not_proven"`
	NotApplicable int `json:"not_applicable"`
}

// Report is all rows, in the order of their numbers.
type Report struct {
	Schema int    `json:"schema"`
	Kind   Kind   `json:"kind"`
	Name   string `json:"name"`
	Arch   string `json:"arch"`
	// Bundle is the digest of the bundle's manifest, "sha256:…".
	Bundle string `json:"bundle"`
	// Time is when a machine was looked at, in RFC 3339 and UTC, where whoever
	// keeps the report says so: what a machine shows can change. A bundle's cannot.
	Time   string `json:"time,omitempty"`
	Rows   []Row  `json:"rows"`
	Counts Counts `json:"counts"`
}

// Kind is what was audited.
type Kind string

// Kinds.
const (
	KindBundle  Kind = "bundle"
	KindMachine Kind = "machine"
)

// OK says whether no row failed. It does not say that all are proven.
func (r *Report) OK() bool { return r.Counts.Failed == 0 }

// Judge holds the facts against every item.
func Judge(f *Facts) *Report {
	r := &Report{Schema: Schema, Kind: f.Kind(), Name: f.Name, Arch: f.Arch, Bundle: f.Bundle}
	for i, it := range items {
		v := it.rule(f)
		r.Rows = append(r.Rows, Row{
			Number: i + 1, Part: it.part, Item: it.title, Looked: it.looked(f), Seen: v.seen,
			Verdict: v.verdict, Why: v.why, Mend: v.mend, Remedy: v.remedy,
		})
		switch v.verdict {
		case Proven:
			r.Counts.Proven++
		case Failed:
			r.Counts.Failed++
		case NotProven:
			r.Counts.NotProven++
		case NotApplicable:
			r.Counts.NotApplicable++
		}
	}
	return r
}
