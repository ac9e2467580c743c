package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// errSparseMap is a sparse file whose map does not fit its data.
var errSparseMap = errors.New("the map of its holes is wrong")

// dataRun is a piece of a sparse file that the archive has.
type dataRun struct{ off, n int64 }

// isSparse says whether a file may have holes in the archive.
func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// sparseMap reads again, from the headers' bytes, what archive/tar keeps to
// itself: where a sparse file has data. archive/tar would make its holes byte
// by byte, a few of which can take hours. ok is false for a file without a
// map. GNU tar's manual has the formats, under "Storing Sparse Files".
func sparseMap(h *tar.Header, headers []byte) (runs []dataRun, ok bool, err error) {
	block, rest, err := mainHeader(headers)
	if err != nil {
		return nil, false, err
	}
	physical := parseNumber(block[124:136])
	if text := h.PAXRecords["size"]; text != "" {
		if physical, err = strconv.ParseInt(text, 10, 64); err != nil {
			return nil, false, errSparseMap
		}
	}
	major, minor := h.PAXRecords["GNU.sparse.major"], h.PAXRecords["GNU.sparse.minor"]
	var numbers []int64
	switch text := h.PAXRecords["GNU.sparse.map"]; {
	case h.Typeflag == tar.TypeGNUSparse:
		numbers, err = oldMap(block, rest)
	case major == "1" && minor == "0":
		var length int64
		numbers, length, err = dataMap(rest)
		physical -= length
	case major == "0" && (minor == "0" || minor == "1") || major == "" && minor == "" && text != "":
		numbers, err = textMap(text)
	default:
		return nil, false, nil // archive/tar takes it for an ordinary file
	}
	if err != nil {
		return nil, false, err
	}
	end := int64(0)
	for i := 0; i+1 < len(numbers); i += 2 {
		r := dataRun{numbers[i], numbers[i+1]}
		if r.off < end || r.n < 0 || r.n > h.Size-r.off {
			return nil, false, errSparseMap
		}
		end = r.off + r.n
		physical -= r.n
		if r.n > 0 {
			runs = append(runs, r)
		}
	}
	if physical != 0 || len(numbers)%2 != 0 {
		return nil, false, errSparseMap
	}
	return runs, true, nil
}

// mainHeader is the header of the entry itself, behind those of its records
// and long names, and what follows it.
func mainHeader(headers []byte) (block, rest []byte, err error) {
	for len(headers) >= blockSize {
		block, headers = headers[:blockSize], headers[blockSize:]
		switch block[156] {
		case tar.TypeXHeader, tar.TypeXGlobalHeader, tar.TypeGNULongName, tar.TypeGNULongLink:
			n := parseNumber(block[124:136])
			if n < 0 || n > int64(len(headers)) {
				return nil, nil, errSparseMap
			}
			headers = headers[min(int(n+blockSize-1)/blockSize*blockSize, len(headers)):]
		default:
			return block, headers, nil
		}
	}
	return nil, nil, errSparseMap
}

// parseNumber reads a number of a header, in octal digits or, with its first
// bit set, in binary; -1 is none.
func parseNumber(b []byte) int64 {
	if b[0]&0x80 != 0 {
		n := int64(b[0] & 0x7f)
		for _, c := range b[1:] {
			if n >= 1<<55 {
				return -1
			}
			n = n<<8 | int64(c)
		}
		return n
	}
	text, _, _ := strings.Cut(strings.Trim(string(b), " \x00"), "\x00")
	if text == "" {
		return 0
	}
	n, err := strconv.ParseInt(strings.Trim(text, " "), 8, 64)
	if err != nil || n < 0 {
		return -1
	}
	return n
}

// oldMap reads GNU tar's own format: four pairs in the header, and 21 in each
// of the blocks that may follow.
func oldMap(block, rest []byte) (numbers []int64, err error) {
	pairs, more := block[386:482], block[482] != 0
	for {
		for ; len(pairs) >= 24 && pairs[0] != 0; pairs = pairs[24:] {
			off, n := parseNumber(pairs[:12]), parseNumber(pairs[12:24])
			if off < 0 || n < 0 {
				return nil, errSparseMap
			}
			numbers = append(numbers, off, n)
		}
		if !more {
			return numbers, nil
		}
		if len(rest) < blockSize {
			return nil, errSparseMap
		}
		pairs, more, rest = rest[:504], rest[504] != 0, rest[blockSize:]
	}
}

// textMap reads the map of the formats 0.0 and 0.1, which is a record.
func textMap(text string) (numbers []int64, err error) {
	if text == "" {
		return nil, nil
	}
	for word := range strings.SplitSeq(text, ",") {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil || n < 0 {
			return nil, errSparseMap
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// dataMap reads the map of the format 1.0, which stands before the data: the
// number of pairs and the pairs, a number a line, filled up to whole blocks.
func dataMap(b []byte) (numbers []int64, length int64, err error) {
	next := func() (int64, error) {
		i := bytes.IndexByte(b[length:], '\n')
		if i < 0 {
			return 0, errSparseMap
		}
		n, err := strconv.ParseInt(string(b[length:length+int64(i)]), 10, 64)
		if err != nil || n < 0 {
			return 0, errSparseMap
		}
		length += int64(i) + 1
		return n, nil
	}
	count, err := next()
	if err != nil || count > int64(len(b)) {
		return nil, 0, errSparseMap
	}
	for range 2 * count {
		n, err := next()
		if err != nil {
			return nil, 0, err
		}
		numbers = append(numbers, n)
	}
	return numbers, (length + blockSize - 1) / blockSize * blockSize, nil
}

// sparseContents puts the data of the sparse file that was read last into the
// spool, where its holes are holes. The data are read past archive/tar, which
// then gets as many bytes of nothing in place of them.
func (t *TarReader) sparseContents(spool *Spool, runs []dataRun) (Content, error) {
	off := spool.reserve(t.header.Size)
	for _, r := range runs {
		if err := spool.putN(off+r.off, t.src, r.n); err != nil {
			return nil, err
		}
	}
	for _, r := range runs {
		t.src.owed += r.n
	}
	// The spool's file reaches as far as its contents.
	if end := t.header.Size; end > 0 && (len(runs) == 0 || runs[len(runs)-1].off+runs[len(runs)-1].n < end) {
		if _, err := spool.f.WriteAt([]byte{0}, off+end-1); err != nil {
			return nil, fmt.Errorf("spool: %w", err)
		}
	}
	return Section(spool.f, off, t.header.Size), nil
}

// skipSparse reads past the data of the sparse file that was read last.
func (t *TarReader) skipSparse(runs []dataRun) error {
	for _, r := range runs {
		if _, err := io.CopyN(io.Discard, t.src, r.n); err != nil {
			return err
		}
		t.src.owed += r.n
	}
	return nil
}
