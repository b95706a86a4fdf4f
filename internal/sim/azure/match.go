package azure

import (
	"net/http"
	"strings"
)

// IfMatch is what a request says of the version it means. The etag is empty for any version.
// Clients write both `*` and `"*"`.
type IfMatch struct {
	Given bool
	Etag  string
}

// ParseIfMatch reads the header If-Match, or an etag in a body.
func ParseIfMatch(text string) IfMatch {
	etag := strings.Trim(strings.TrimPrefix(strings.TrimSpace(text), "W/"), `"`)
	if etag == "*" {
		return IfMatch{Given: true}
	}
	return IfMatch{etag != "", etag}
}

// Check returns an *Error with status 412 if the current version is another one.
func (m IfMatch) Check(current string) error {
	if m.Etag != "" && m.Etag != current {
		return Errorf(http.StatusPreconditionFailed, "PreconditionFailed", "Precondition failed: the version is %s, not %s.", current, m.Etag)
	}
	return nil
}
