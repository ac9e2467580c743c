package verify

import (
	"context"
	"io"
	"os"

	"github.com/sovereign-build/sovereign/internal/stream"
	"github.com/sovereign-build/sovereign/pkg/audit"
	"github.com/sovereign-build/sovereign/pkg/bundle/signature"
	"github.com/sovereign-build/sovereign/pkg/fault"
)

// SignatureSuffix ends the name of the signature of a file.
const SignatureSuffix = ".minisig"

// Audit checks the report of an audit, the file at path, and its signature, which
// lies beside it. That rows of an audit failed is no lie. Rotations of keys do
// not count here: the key is the one that signed.
func Audit(_ context.Context, path string, o Options) (*Report, error) {
	c := &checker{tell: o.Tell}
	var text []byte
	var r *audit.Report
	err := c.do("report", func() (detail string, err error) {
		if text, err = readAll(path, audit.MaxReport); err != nil {
			return "", err
		}
		r, err = audit.Parse(text)
		if err != nil {
			return "", err
		}
		c.Name = r.Name
		return "an audit of the " + string(r.Kind) + " " + r.Name + " (" + r.Arch + "), with a row for each item", nil
	})
	if err != nil {
		return &c.Report, err
	}
	err = c.do("signature", func() (string, error) {
		note, err := readAll(path+SignatureSuffix, signature.MaxSize)
		if err != nil {
			return "", err
		}
		key, said := o.Key, ""
		if key == "" {
			if key, err = signature.NoteKey(note, audit.Note); err != nil {
				return "", err
			}
			said = ", the key that it names itself"
		}
		if c.Key, err = signature.VerifyNote(note, audit.Note, text, key); err != nil {
			return "", err
		}
		return "by " + string(key) + said, nil
	})
	if err != nil {
		return &c.Report, err
	}
	when := ""
	if r.Time != "" {
		when = "at " + r.Time + ": "
	}
	n := r.Counts
	c.add("rows", OK, "%s%d proven, %d failed, %d not proven, %d not applicable", when, n.Proven, n.Failed, n.NotProven, n.NotApplicable)
	if r.Bundle == "" {
		c.add("bundle", Skipped, "the report names none")
	} else {
		c.add("bundle", Skipped, "%s: verify the bundle itself", r.Bundle)
	}
	return &c.Report, nil
}

// readAll reads a file of at most limit bytes.
func readAll(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil, fault.Errorf(fault.Verification, "%w", err)
	}
	if err != nil {
		return nil, fault.Wrap(fault.Environment, err)
	}
	defer f.Close() // only read
	return io.ReadAll(stream.AtMost(f, &limit, fault.Errorf(fault.Verification, "%s is larger than %d bytes", path, limit)))
}
