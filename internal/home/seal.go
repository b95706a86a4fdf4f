package home

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

// A file of the home is a JSON object whose last member is a checksum: the CRC-32C of every byte
// before the checksum's own digits. It tells a damaged file from a good one, and older versions can
// still read the file. docs/device-dir.md describes it.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	sumBefore = ",\n  \"sum\": \""
	sumAfter  = "\"\n}\n"
	sumDigits = 8
)

var errSum = errors.New("its checksum does not fit its content")

// Seal returns the content of a file with v. v must become a JSON object with at least one member.
func Seal(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	b = append(bytes.TrimSuffix(b, []byte("\n}")), sumBefore...)
	return fmt.Appendf(b, "%08x%s", crc32.Checksum(b, castagnoli), sumAfter), nil
}

// Unseal reads a file into v. sealed is false for a file without a checksum, which an older version
// wrote.
func Unseal(b []byte, v any) (sealed bool, err error) {
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
