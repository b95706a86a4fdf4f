package dps

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hubhop-iot/hubhop/internal/azname"
)

// ErrNonsense is wrapped by an [*Error] when an answer cannot come from DPS as documented: it is
// not the documented JSON or MQTT, it is too long, or a hub, device or operation in it has an
// impossible name. The client keeps nothing of such an answer.
var ErrNonsense = errors.New("the answer of DPS makes no sense")

// Bounds of the texts of DPS, in bytes.
const (
	maxOperationID = 256 // of an operation id; a longer one is refused. DPS's own have 55
	maxWord        = 64  // of a status, a substatus or a tracking id; a longer one is left out
	maxMessage     = 300 // of a sentence; a longer one is cut
)

// document is any body of DPS: the registration's state or an error. A document that parse returned
// keeps to the bounds above.
type document struct {
	OperationID string `json:"operationId"`
	Status      string `json:"status"`
	State       struct {
		AssignedHub  string `json:"assignedHub"`
		DeviceID     string `json:"deviceId"`
		Substatus    string `json:"substatus"`
		ErrorCode    int    `json:"errorCode"`
		ErrorMessage string `json:"errorMessage"`
	} `json:"registrationState"`
	ErrorCode  int    `json:"errorCode"`
	TrackingID string `json:"trackingId"`
	Message    string `json:"message"`
}

// parse reads an answer. It takes any body of a refusal, because the status alone says enough.
func parse(a answer) (document, error) {
	var d document
	if err := json.Unmarshal(a.body, &d); err != nil {
		if a.status >= 300 { // no body, or a proxy's HTML page
			return document{}, nil
		}
		return document{}, fmt.Errorf("%w: it is not the JSON that DPS sends: %s", ErrNonsense, sentence(err.Error()))
	}
	d.Message, d.State.ErrorMessage = sentence(d.Message), sentence(plainMessage(d.State.ErrorMessage))
	d.TrackingID, d.State.Substatus = word(d.TrackingID), word(d.State.Substatus)
	if a.status >= 300 { // a refusal names no hub, so there is nothing to check
		d.Status, d.OperationID, d.State.AssignedHub, d.State.DeviceID = word(d.Status), "", "", ""
		return d, nil
	}
	if d.Status == "" || d.Status != word(d.Status) {
		return document{}, fmt.Errorf("%w: the status of the registration is %q", ErrNonsense, sentence(d.Status))
	}
	if err := checkOperationID(d.OperationID); err != nil {
		return document{}, err
	}
	if d.State.AssignedHub != "" {
		if err := azname.CheckHost(d.State.AssignedHub); err != nil {
			return document{}, fmt.Errorf("%w: the hub %w", ErrNonsense, err)
		}
	}
	if d.State.DeviceID != "" {
		if err := azname.CheckDeviceID(d.State.DeviceID); err != nil {
			return document{}, fmt.Errorf("%w: the device id %w", ErrNonsense, err)
		}
	}
	return d, nil
}

// refusal returns the answer as an error.
func (d document) refusal(step Step, a answer) *Error {
	e := &Error{Step: step, Status: a.status, Code: d.ErrorCode, Message: d.Message, TrackingID: d.TrackingID,
		RetryAfter: a.retryAfter, Skew: a.skew, Counted: true}
	if d.Status != "" {
		e.State, e.Code, e.Message = strings.ToLower(d.Status), d.State.ErrorCode, d.State.ErrorMessage
	}
	return e
}

// plainMessage takes the sentence out of an errorMessage that is itself a JSON document. DPS sends
// such a message when it lost a linked hub.
func plainMessage(s string) string {
	var inner struct{ Message string }
	if strings.HasPrefix(s, "{") && json.Unmarshal([]byte(s), &inner) == nil && inner.Message != "" {
		return inner.Message
	}
	return s
}

// checkOperationID returns an error if s cannot stand in a topic and in a path.
func checkOperationID(s string) error {
	if len(s) > maxOperationID || !only(s, "-._:~") {
		return fmt.Errorf("%w: the operation id is %q (%d bytes)", ErrNonsense, sentence(s), len(s))
	}
	return nil
}

// only reports whether s consists of ASCII letters, ASCII digits and the characters of others.
func only(s, others string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !azname.IsAlphanumeric(r) && !strings.ContainsRune(others, r) })
}

// word returns s if it is a short word, else an empty text.
func word(s string) string {
	if len(s) > maxWord || !only(s, "-_.") {
		return ""
	}
	return s
}

// sentence makes a text fit for a line of a log: printable, and cut if it is longer than
// maxMessage.
func sentence(s string) string {
	cut := len(s) > maxMessage
	if cut {
		s = s[:maxMessage]
		for s != "" && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]) && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
	}
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if cut {
		s += "…"
	}
	return s
}

// retryAfter reads how long DPS asks to wait: seconds, whole or not, or a date, which is compared
// with the date of the answer. It returns 0 to 300 s, and a negative time if s is neither seconds
// nor a date.
func retryAfter(s string, date time.Time) time.Duration {
	s = strings.TrimSpace(s)
	most := maxRetryAfter.Seconds()
	if f, err := strconv.ParseFloat(s, 64); (err == nil || errors.Is(err, strconv.ErrRange)) && f == f {
		return time.Duration(min(max(f, 0), most) * float64(time.Second))
	}
	if t, err := http.ParseTime(s); err == nil {
		return min(max(t.Sub(date), 0), maxRetryAfter)
	}
	return -1
}

// parseResponse reads $dps/registrations/res/{status}/?$rid={rid}[&retry-after={seconds}]. The
// parameters may come in any order. A date in retry-after is compared with now.
func parseResponse(topic string, body []byte, now time.Time) (a answer, rid string, ok bool) {
	rest, ok := strings.CutPrefix(topic, "$dps/registrations/res/")
	if !ok {
		return a, "", false
	}
	status, query, ok := strings.Cut(rest, "/?")
	if !ok {
		return a, "", false
	}
	code, err := strconv.Atoi(status)
	if err != nil || code < 100 || code > 599 {
		return a, "", false
	}
	a = answer{status: code, retryAfter: -1, body: body}
	for pair := range strings.SplitSeq(query, "&") {
		switch key, value, _ := strings.Cut(pair, "="); key {
		case "$rid", "%24rid":
			rid = value
		case "retry-after":
			// QueryUnescape would turn a plus sign into a space.
			if plain, err := url.PathUnescape(value); err == nil {
				value = plain
			}
			a.retryAfter = retryAfter(value, now)
		}
	}
	return a, rid, true
}
