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
	etag := bareEtag(text)
	if etag == "*" {
		return IfMatch{Given: true}
	}
	return IfMatch{etag != "", etag}
}

// bareEtag takes away what clients and services write around an etag.
func bareEtag(text string) string {
	return strings.Trim(strings.TrimPrefix(strings.TrimSpace(text), "W/"), `"`)
}

// Matches reports whether the current version is meant.
func (m IfMatch) Matches(current string) bool { return m.Etag == "" || m.Etag == bareEtag(current) }

// Check returns an *Error with status 412 if the current version is another one.
func (m IfMatch) Check(current string) error {
	if !m.Matches(current) {
		return Errorf(http.StatusPreconditionFailed, "PreconditionFailed", "Precondition failed: the version is %s, not %s.", current, m.Etag)
	}
	return nil
}
