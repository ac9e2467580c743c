package apk

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/fault"
)

// IndexName is the file name of an index in a repository's directory.
const IndexName = "APKINDEX.tar.gz"

// WriteIndex writes a signed index, sorted by name and version. Each Meta
// needs its Checksum, as Write returns it.
func WriteIndex(w io.Writer, metas []Meta, key *SigningKey, epoch int64) error {
	sorted := slices.Clone(metas)
	slices.SortFunc(sorted, compareMeta)
	var text bytes.Buffer
	for _, m := range sorted {
		if err := m.check(); err != nil {
			return err
		}
		if _, err := parseChecksum(m.Checksum); err != nil {
			return fmt.Errorf("package %s: %w", m.ID(), err)
		}
		text.WriteString(m.record() + "\n")
	}
	var body bytes.Buffer
	if err := writeMember(&body, epoch, true,
		memberFile{"DESCRIPTION", []byte("sovereign\n"), 0o644},
		memberFile{"APKINDEX", text.Bytes(), 0o644}); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	sig, err := key.sign(sha256.Sum256(body.Bytes()), epoch)
	if err != nil {
		return err
	}
	if _, err := w.Write(append(sig, body.Bytes()...)); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	return nil
}

func compareMeta(a, b Meta) int {
	if c := strings.Compare(a.Name, b.Name); c != 0 {
		return c
	}
	if c := CompareVersions(a.Version, b.Version); c != 0 {
		return c
	}
	return strings.Compare(a.Checksum, b.Checksum)
}

// ReadIndex reads an index whose signature is one of keys'. No signature, an
// unknown key and a wrong signature are errors of class fault.Verification,
// text that cannot be read is fault.Source.
func ReadIndex(r io.Reader, keys Keyring) ([]Meta, error) {
	return readIndex("index", r, keys)
}

func readIndex(what string, r io.Reader, keys Keyring) ([]Meta, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxIndex+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if len(data) > maxIndex {
		return nil, fault.Errorf(fault.Source, "%s: more than %d bytes", what, maxIndex)
	}
	in := &countingReader{r: bufio.NewReader(bytes.NewReader(data))}
	if err := checkFormat(what, in.r); err != nil {
		return nil, err
	}
	// Nothing is trusted yet, so the first member may only be a signature.
	files, err := readMember(in, maxSignature)
	if err != nil && !errors.Is(err, errTooLarge) {
		return nil, fault.Errorf(fault.Source, "%s: %w", what, err)
	}
	sigs, ok := signatures(files)
	body := data[in.n:]
	if !ok || err != nil {
		sigs, body = nil, data
	}
	if err := keys.verify(what, sigs, func(h crypto.Hash) ([]byte, error) {
		sum := h.New()
		sum.Write(body)
		return sum.Sum(nil), nil
	}); err != nil {
		return nil, err
	}
	if files, err = readMember(in, maxIndex); err != nil {
		return nil, fault.Errorf(fault.Source, "%s: %w", what, err)
	}
	if int(in.n) != len(data) {
		return nil, fault.Errorf(fault.Source, "%s: %d bytes after its end", what, len(data)-int(in.n))
	}
	for _, f := range files {
		if f.name == "APKINDEX" {
			metas, err := parseRecords(bytes.NewReader(f.data))
			if err != nil {
				return nil, fault.Errorf(fault.Source, "%s: %w", what, err)
			}
			return metas, nil
		}
	}
	return nil, fault.Errorf(fault.Source, "%s: no file APKINDEX in it", what)
}

// signatures returns those of a signature member; false says that the member
// is another one.
func signatures(files []memberFile) ([]signature, bool) {
	var sigs []signature
	for _, f := range files {
		if !strings.HasPrefix(f.name, ".SIGN.") {
			return nil, false
		}
		if s, ok := parseSignature(f.name, f.data); ok {
			sigs = append(sigs, s)
		}
	}
	return sigs, len(files) > 0
}
