package drill

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// ErrLedger marks a ledger that cannot be judged: it is not a list of messages, or no message in it
// is the device's. Another ledger must be given.
var ErrLedger = errors.New("not a ledger of this device")

// Arrival is what a ledger says of one message. A field is empty if the ledger does not say.
type Arrival struct {
	ID     string // the message id, $.mid on the wire
	Gap    string // what the message announces as missing, "<first>-<last>"
	Device string // the device that sent it, as the cloud says
}

// Ledger is a list of messages that arrived, as somebody else wrote it down. It is read once, and
// its owner closes it.
type Ledger struct {
	Name string // where it is from, for errors
	io.ReadCloser
}

// FetchLedger asks a web address for a ledger.
func FetchLedger(ctx context.Context, client *http.Client, from *url.URL) (*Ledger, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from.String(), nil)
	if err != nil {
		return nil, ledgerError{fmt.Errorf("ledger: %w", err)}
	}
	resp, err := client.Do(req)
	if err != nil {
		if refused, ok := errors.AsType[*url.Error](err); ok { // its text repeats the whole address
			err = refused.Err
		}
		return nil, fmt.Errorf("ledger: nothing can be read from %s://%s: %w; does the simulator run, and is this its control address?", from.Scheme, from.Host, err)
	}
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		_ = resp.Body.Close()
		return nil, fmt.Errorf("ledger: %s answers %s: %s", from, resp.Status, strings.TrimSpace(string(b)))
	}
	return &Ledger{from.String(), resp.Body}, nil
}

// maxLedgerValue bounds the bytes of one value in a ledger, because the whole value is held in
// memory. A message of 256 KB fits in any encoding, with all that the cloud adds.
const maxLedgerValue = 8 << 20

// bounded is a reader that fails when it is maxLedgerValue bytes ahead of its decoder.
type bounded struct {
	io.Reader
	read int64
	done func() int64 // returns how many bytes the decoder has used
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.read-b.done() > maxLedgerValue {
		return 0, contentError(fmt.Sprintf("one value has more than %d bytes, which no message has", maxLedgerValue))
	}
	n, err := b.Reader.Read(p)
	b.read += int64(n)
	return n, err
}

// Read calls each for every message, in order. It accepts JSON values in a row: messages, arrays of
// messages, or the simulator's ledger, which is an object with the messages in its field
// "messages". It holds one message at a time in memory. It returns the number of messages, and
// partial if the ledger says that its beginning is missing. The error wraps ErrLedger if the text
// is not a ledger.
func (l *Ledger) Read(each func(Arrival)) (n int, partial bool, err error) {
	in := bufio.NewReaderSize(l.ReadCloser, 64<<10)
	if mark, _ := in.Peek(3); string(mark) == "\xef\xbb\xbf" { // a byte order mark is not JSON
		_, _ = in.Discard(3)
	}
	limited := &bounded{Reader: in}
	d := json.NewDecoder(limited)
	limited.done = d.InputOffset
	message := func() error {
		var fields map[string]json.RawMessage
		if err := d.Decode(&fields); err != nil {
			return err
		}
		n++
		each(newArrival(fields))
		return nil
	}
	rest := func() error { // of an array whose opening bracket has been read
		for d.More() {
			if err := message(); err != nil {
				return err
			}
		}
		_, err := d.Token()
		return err
	}
	for {
		start, err := d.Token()
		switch {
		case errors.Is(err, io.EOF):
			return n, partial, nil
		case err != nil:
		case start == json.Delim('['):
			err = rest()
		case start == json.Delim('{'):
			var fields map[string]json.RawMessage
			if fields, err = readObject(d, rest); err != nil {
				break
			}
			if fields["messages"] == nil {
				n++
				each(newArrival(fields))
			}
			partial = partial || string(fields["truncated"]) == "true"
		default:
			err = contentError("it holds something else than JSON objects")
		}
		if err != nil {
			return n, partial, l.fault(n, err)
		}
	}
}

// contentError says why JSON is not a ledger.
type contentError string

func (e contentError) Error() string { return string(e) }

// ledgerError is an error that wraps ErrLedger without its text.
type ledgerError struct{ error }

func (e ledgerError) Unwrap() error        { return e.error }
func (e ledgerError) Is(target error) bool { return target == ErrLedger }

// fault says after which message reading has ended. The error wraps ErrLedger if the text is not a
// ledger, and not if the text could not be read.
func (l *Ledger) fault(n int, err error) error {
	text := fmt.Errorf("ledger: %s: behind message %d: %w", l.Name, n, err)
	var syntax *json.SyntaxError
	var shape *json.UnmarshalTypeError
	var content contentError
	if errors.As(err, &syntax) || errors.As(err, &shape) || errors.As(err, &content) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return ledgerError{text}
	}
	return text
}

// readObject reads the fields of an object whose opening brace has been read. It gives a list under
// "messages" to rest, and returns an empty list for it.
func readObject(d *json.Decoder, rest func() error) (map[string]json.RawMessage, error) {
	fields := map[string]json.RawMessage{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := key.(string) // the decoder accepts no other key
		if name == "messages" {
			if start, err := d.Token(); err != nil || start != json.Delim('[') {
				return nil, errors.Join(err, contentError(`"messages" is no list`))
			}
			fields[name] = json.RawMessage("[]")
			if err := rest(); err != nil {
				return nil, err
			}
			continue
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		fields[name] = value
	}
	_, err := d.Token()
	return fields, err
}

// newArrival finds the fields that count in the spellings of IoT Hub's endpoints, routes, SDKs and
// tools. It ignores what a message says of itself in its body.
func newArrival(fields map[string]json.RawMessage) (a Arrival) {
	const depth = 3 // of "event" → "properties" → "system"
	a.find(fields, true, depth)
	return a
}

// find looks at the fields themselves, then into the fields that hold others, up to depth levels.
// An outer field comes before an inner one. Of two fields, the first in the alphabet counts, so
// that the same text always gives the same message. The device counts only where the cloud wrote
// the fields: an application may use the same names.
func (a *Arrival) find(fields map[string]json.RawMessage, cloud bool, depth int) {
	keys := slices.Sorted(maps.Keys(fields))
	for _, key := range keys {
		switch plainKey(key) {
		case "mid", "messageid":
			id := text(fields[key])
			if _, _, ok := outbox.SplitID(a.ID); !ok && id != "" {
				if _, _, ok := outbox.SplitID(id); ok || a.ID == "" {
					a.ID = id
				}
			}
		case "gap":
			a.Gap = cmp.Or(a.Gap, text(fields[key]))
		case "device", "deviceid", "connectiondeviceid", "iothubconnectiondeviceid", "origin":
			if cloud {
				a.Device = cmp.Or(a.Device, text(fields[key]))
			}
		}
	}
	for _, key := range keys {
		plain := plainKey(key)
		switch plain {
		case "properties", "systemproperties", "system", "applicationproperties", "application", "messageproperties", "annotations",
			"event":
			var inner map[string]json.RawMessage
			if depth > 0 && json.Unmarshal(fields[key], &inner) == nil {
				a.find(inner, cloud && plain != "properties" && !strings.HasPrefix(plain, "application"), depth-1)
			}
		}
	}
}

func text(raw json.RawMessage) (s string) {
	_ = json.Unmarshal(raw, &s) // what is not a string is no id
	return s
}

// plainKey makes one spelling of many: $.mid, message-id, message_id, messageId, MessageId.
func plainKey(key string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("$.-_ ", r) {
			return -1
		}
		return r
	}, strings.ToLower(key))
}
