package azure

import (
	"fmt"
	"net/http"
)

// Error is a request that a service, or the simulator's control API, refuses.
type Error struct {
	Status  int    // the HTTP status it stands for
	Code    string // a name such as DeviceNotOnline, "" where none is needed
	Message string // a sentence

	Document []byte // the hub's own form of the error, nil if the sentence is all there is
}

// Error returns the sentence.
func (e *Error) Error() string { return e.Message }

// Errorf makes an *Error. The status is that of HTTP; the code may be empty.
func Errorf(status int, code, format string, args ...any) error {
	return &Error{Status: status, Code: code, Message: fmt.Sprintf(format, args...)}
}

// Unconfirmed turns the error of a state directory into what the client is answered: 503, because
// its request could not be written down. It returns nil for nil.
func Unconfirmed(err error) error {
	if err == nil {
		return nil
	}
	return Errorf(http.StatusServiceUnavailable, "ServiceUnavailable", "%v", err)
}

// ErrorDocument is the body of a refused request at DPS and of a refused twin operation at a hub.
// Its code divided by 1000 is the HTTP status.
type ErrorDocument struct {
	ErrorCode    int    `json:"errorCode"`
	TrackingID   string `json:"trackingId"`
	Message      string `json:"message"`
	TimestampUTC string `json:"timestampUtc"`
}
