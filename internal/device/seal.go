package device

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

// A file of the home is a JSON object whose last member is the check sum, CRC-32C, of every byte before the sum's own digits. So a program of
// an older version reads it as it always did, and a damaged file is told from a good one. docs/state-dir.md is about it.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	sumBefore = ",\n  \"sum\": \""
	sumAfter  = "\"\n}\n"
	sumDigits = 8
)

var errSum = errors.New("its check sum does not fit its content")

// seal is the content of a file that holds v, which must become a JSON object with one member at least.
func seal(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	b = append(bytes.TrimSuffix(b, []byte("\n}")), sumBefore...)
	return fmt.Appendf(b, "%08x%s", crc32.Checksum(b, castagnoli), sumAfter), nil
}

// unseal reads a file into v and says whether it has a check sum. A file of an older version has none.
func unseal(b []byte, v any) (sealed bool, err error) {
	head, tail := len(b)-len(sumAfter)-sumDigits, len(b)-len(sumAfter)
	if head > 0 && bytes.HasSuffix(b[:head], []byte(sumBefore)) && string(b[tail:]) == sumAfter {
		if string(b[head:tail]) != fmt.Sprintf("%08x", crc32.Checksum(b[:head], castagnoli)) {
			return true, errSum
		}
		return true, json.Unmarshal(b, v)
	}
	var old struct {
		Sum json.RawMessage `json:"sum"`
	}
	if err := json.Unmarshal(b, &old); err != nil {
		return false, err
	}
	if old.Sum != nil {
		return false, errSum
	}
	return false, json.Unmarshal(b, v)
}
