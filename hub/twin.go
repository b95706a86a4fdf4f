package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/hubhop-iot/hubhop/internal/mqtt"
)

// request is a request about the twin that waits for an answer.
type request struct {
	rid    string
	answer chan *twinAnswer // buffered, for one answer
}

// request sends a request about the twin, with QoS 0, and registers for its answer.
func (l *Link) request(topic string, body []byte) (*request, error) {
	l.mu.Lock()
	l.lastRID++
	r := &request{strconv.FormatUint(l.lastRID, 16), make(chan *twinAnswer, 1)}
	l.calls = append(l.calls, r)
	l.mu.Unlock()
	err := l.session.Publish(&mqtt.Message{Topic: topic + r.rid, Body: body})
	if err != nil {
		l.forget(r)
	}
	return r, err
}

// answered hands an answer to the request that waits for it, if one does.
func (l *Link) answered(a *twinAnswer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.IndexFunc(l.calls, func(r *request) bool { return r.rid == a.rid }); i >= 0 {
		l.calls[i].answer <- a // it has room for one
		l.forgetLocked(i)
	}
}

// forget gives a request up.
func (l *Link) forget(r *request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.calls, r); i >= 0 {
		l.forgetLocked(i)
	}
}

// forgetLocked removes a request. A link that waits for no answer keeps no memory for it.
func (l *Link) forgetLocked(i int) {
	if l.calls = slices.Delete(l.calls, i, i+1); len(l.calls) == 0 {
		l.calls = nil
	}
}

// call sends a request about the twin, and waits for its answer.
func (l *Link) call(ctx context.Context, topic string, body []byte) (*twinAnswer, error) {
	r, err := l.request(topic, body)
	if err != nil {
		return nil, err
	}
	return l.await(ctx, r)
}

func (l *Link) await(ctx context.Context, r *request) (*twinAnswer, error) {
	select {
	case a := <-r.answer:
		return a, a.err()
	case <-l.session.Done():
		return nil, l.session.Err()
	case <-ctx.Done(): // a late answer is dropped, because the next request has another number
		l.forget(r)
		return nil, ctx.Err()
	}
}

// TwinDocument is the twin as its device sees it: no tags, no metadata.
type TwinDocument struct {
	Desired, Reported map[string]json.RawMessage // without $version
	DesiredVersion    int64
	ReportedVersion   int64
}

// Twin reads the twin. The first call takes the answer to the request that went out with the
// subscriptions. A refusal by the hub is a [*TwinError]; an answer that is not a twin, or has more
// than 256 KiB, wraps [ErrTwin].
func (l *Link) Twin(ctx context.Context) (TwinDocument, error) {
	l.mu.Lock()
	first := l.firstTwin
	l.firstTwin = nil
	l.mu.Unlock()
	var a *twinAnswer
	var err error
	if first != nil {
		a, err = l.await(ctx, first)
	} else {
		a, err = l.call(ctx, twinGet, nil)
	}
	if err != nil {
		return TwinDocument{}, err
	}
	if a.size > maxTwin {
		return TwinDocument{}, fmt.Errorf("%w: it has %d bytes; at most %d are accepted", ErrTwin, a.size, maxTwin)
	}
	return parseTwin(a.body)
}

// parseTwin reads a twin. Both parts must be objects: a document without them is not the twin of a
// device, and its empty parts must not be taken for removed properties.
func parseTwin(body []byte) (TwinDocument, error) {
	var doc struct{ Desired, Reported map[string]json.RawMessage }
	switch err := json.Unmarshal(body, &doc); {
	case err != nil:
		return TwinDocument{}, fmt.Errorf("%w: %w", ErrTwin, err)
	case doc.Desired == nil:
		return TwinDocument{}, fmt.Errorf("%w: it has no object \"desired\"", ErrTwin)
	case doc.Reported == nil:
		return TwinDocument{}, fmt.Errorf("%w: it has no object \"reported\"", ErrTwin)
	}
	t := TwinDocument{Desired: doc.Desired, Reported: doc.Reported}
	t.DesiredVersion = takeVersion(t.Desired)
	t.ReportedVersion = takeVersion(t.Reported)
	return t, nil
}

// takeVersion returns $version, and removes it and everything else that is not a property.
func takeVersion(props map[string]json.RawMessage) int64 {
	n := parseVersion(string(props["$version"]))
	for name := range props {
		if name != "" && name[0] == '$' {
			delete(props, name)
		}
	}
	return n
}

// Report merges a patch into the reported properties and returns their new version. An answer other
// than success is a [*TwinError].
func (l *Link) Report(ctx context.Context, patch []byte) (version int64, err error) {
	a, err := l.call(ctx, twinPatch, patch)
	if err != nil {
		return 0, err
	}
	return a.version, nil
}

// twinAnswer is what came on $iothub/twin/res for one request.
type twinAnswer struct {
	rid     string
	status  int
	version int64
	body    []byte // nil if it is too long
	size    int    // of the body, as it came
}

func (a *twinAnswer) err() error {
	if a.status >= 200 && a.status < 300 {
		return nil
	}
	e := &TwinError{Status: a.status}
	var doc struct {
		ErrorCode int    `json:"errorCode"`
		Message   string `json:"message"`
	}
	if json.Unmarshal(a.body, &doc) == nil {
		e.Code, e.Message = doc.ErrorCode, printable(doc.Message, maxWords)
	}
	return e
}
