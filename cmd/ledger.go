package cmd

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

// arrival is what a ledger says of one message.
type arrival struct {
	id, gap, device string
}

// ledgerFile is where the messages went, as somebody else wrote it down.
type ledgerFile struct {
	io.ReadCloser
	name string
}

// openLedger opens what --ledger names: a file, - for standard input, an URL, or the control address of a simulator.
func openLedger(ctx context.Context, env *Env, where, deviceID string) (*ledgerFile, error) {
	where = strings.TrimSpace(where)
	if lower := strings.ToLower(where); !strings.HasPrefix(lower, "http://") && !strings.HasPrefix(lower, "https://") {
		if where == "-" {
			return &ledgerFile{io.NopCloser(env.Stdin), "the standard input"}, nil
		}
		f, err := openNamed("ledger", where)
		if err != nil {
			return nil, usage(err)
		}
		return &ledgerFile{f, where}, nil
	}
	u, err := url.Parse(where)
	if err != nil {
		return nil, usage(fmt.Errorf("ledger: %w", err))
	}
	if err := checkHost("ledger", u.Host); err != nil {
		return nil, usage(err)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/api/ledger"
	}
	if q := u.Query(); strings.HasSuffix(u.Path, "/api/ledger") {
		if q.Get("device") == "" {
			if deviceID == "" {
				return nil, usage(errors.New("ledger: whose messages? give --device-id"))
			}
			q.Set("device", deviceID)
		}
		q.Set("messages", "1")
		u.RawQuery = q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, usage(fmt.Errorf("ledger: %w", err))
	}
	transport := &http.Transport{DialContext: env.DialContext, Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		if refused, ok := errors.AsType[*url.Error](err); ok { // it repeats the address with all that was added to it
			err = refused.Err
		}
		return nil, fmt.Errorf("ledger: nothing can be read from %s://%s: %w; does the simulator run, and is this its control address?", u.Scheme, u.Host, err)
	}
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		_ = resp.Body.Close()
		return nil, fmt.Errorf("ledger: %s answers %s: %s", u, resp.Status, strings.TrimSpace(string(b)))
	}
	return &ledgerFile{resp.Body, u.String()}, nil
}

// isLive says whether a ledger comes from a running simulator, so is as new as the outbox; a file
// is older.
func isLive(where string) bool {
	u, err := url.Parse(strings.TrimSpace(where))
	return err == nil && strings.HasPrefix(strings.ToLower(u.Scheme), "http") && (u.Path == "" || u.Path == "/" || strings.HasSuffix(u.Path, "/api/ledger"))
}

// maxLedgerValue bounds the bytes of one value in a ledger, because the whole value is held in
// memory. A message of 256 KB fits in any encoding, with all that the cloud adds.
const maxLedgerValue = 8 << 20

// bounded is a reader that fails when it is maxLedgerValue bytes ahead of its decoder.
type bounded struct {
	io.Reader
	read int64
	done func() int64 // how many bytes the decoder has used
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.read-b.done() > maxLedgerValue {
		return 0, noLedgerError(fmt.Sprintf("one value has more than %d bytes, which no message has", maxLedgerValue))
	}
	n, err := b.Reader.Read(p)
	b.read += int64(n)
	return n, err
}

// read calls each for every message, in order. It takes one JSON value after the other: events, arrays of events, or the simulator's
// ledger, an object whose "messages" are the events; none of them is held in memory whole. partial says that the ledger says of itself
// that it lacks its beginning.
func (l *ledgerFile) read(each func(arrival)) (n int, partial bool, err error) {
	in := bufio.NewReaderSize(l, 64<<10)
	if mark, _ := in.Peek(3); string(mark) == "\xef\xbb\xbf" { // belongs to the encoding
		_, _ = in.Discard(3)
	}
	limited := &bounded{Reader: in}
	d := json.NewDecoder(limited)
	limited.done = d.InputOffset
	event := func() error {
		var fields map[string]json.RawMessage
		if err := d.Decode(&fields); err != nil {
			return err
		}
		n++
		each(newArrival(fields))
		return nil
	}
	events := func() error { // behind the bracket
		for d.More() {
			if err := event(); err != nil {
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
			err = events()
		case start == json.Delim('{'):
			var fields map[string]json.RawMessage
			if fields, err = l.object(d, events); err != nil {
				break
			}
			if fields["messages"] == nil {
				n++
				each(newArrival(fields))
			}
			partial = partial || string(fields["truncated"]) == "true"
		default:
			err = noLedgerError("it holds something else than JSON objects")
		}
		if err != nil {
			return n, partial, l.fault(n, err)
		}
	}
}

// noLedgerError is what is wrong with a ledger that is JSON.
type noLedgerError string

func (e noLedgerError) Error() string { return string(e) }

// fault tells behind which message reading ended. That is the fault of the file if it is no ledger, and not if it could not be read.
func (l *ledgerFile) fault(n int, err error) error {
	text := fmt.Errorf("ledger: %s: behind message %d: %w", l.name, n, err)
	var syntax *json.SyntaxError
	var shape *json.UnmarshalTypeError
	var other noLedgerError
	if errors.As(err, &syntax) || errors.As(err, &shape) || errors.As(err, &other) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return usage(text)
	}
	return text
}

// object reads the fields of an object whose brace was read. A list of "messages" goes to messages, and leaves a field that is not nil.
func (l *ledgerFile) object(d *json.Decoder, messages func() error) (map[string]json.RawMessage, error) {
	fields := map[string]json.RawMessage{}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := key.(string) // always one
		if name == "messages" {
			if start, err := d.Token(); err != nil || start != json.Delim('[') {
				return nil, errors.Join(err, noLedgerError(`"messages" is no list`))
			}
			fields[name] = json.RawMessage("[]")
			if err := messages(); err != nil {
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

// newArrival finds the fields that count among the spellings of IoT Hub's endpoints, routes, SDKs and tools. What a message says of
// itself in its body does not count.
func newArrival(fields map[string]json.RawMessage) (a arrival) {
	a.take(fields, true, 3)
	return a
}

// take looks at the fields themselves, then into those that hold more of them. What stands farther out counts, and of two names the one
// that is earlier in the alphabet: a message must not be another one the next time. The cloud says whose it is, and not an application.
func (a *arrival) take(fields map[string]json.RawMessage, cloud bool, depth int) {
	keys := slices.Sorted(maps.Keys(fields))
	for _, key := range keys {
		switch plainKey(key) {
		case "mid", "messageid":
			id := text(fields[key])
			if _, _, ok := outbox.SplitID(a.id); !ok && id != "" {
				if _, _, ok := outbox.SplitID(id); ok || a.id == "" {
					a.id = id
				}
			}
		case "gap":
			a.gap = cmp.Or(a.gap, text(fields[key]))
		case "device", "deviceid", "connectiondeviceid", "iothubconnectiondeviceid", "origin":
			if cloud {
				a.device = cmp.Or(a.device, text(fields[key]))
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
				a.take(inner, cloud && plain != "properties" && !strings.HasPrefix(plain, "application"), depth-1)
			}
		}
	}
}

func text(raw json.RawMessage) (s string) {
	_ = json.Unmarshal(raw, &s) // anything else is no id
	return s
}

// plainKey makes one of the many spellings: $.mid, message-id, message_id, messageId, MessageId.
func plainKey(key string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("$.-_ ", r) {
			return -1
		}
		return r
	}, strings.ToLower(key))
}
