package device

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/plain"
)

const (
	twinAnswer   = 30 * time.Second // a request is QoS 0: it may be lost
	twinRetryMin = time.Second
	twinRetryMax = 30 * time.Second
	maxReport    = 128 << 10 // bytes of a patch; a hub refuses 32 KB, and closes the link far above that
	componentTag = "__t"     // IoT Central marks a component's object with "__t":"c"
)

// twin keeps the device's side of the twin. It remembers values over links and hubs, but no
// versions, because each hub counts its own. One goroutine at a time uses it, for the link that is
// served.
type twin struct {
	d       *Device
	applied map[string]applied // by component/name: what became of the value that was tried last
	wanted  map[string]bool    // component/name of each desired property that this link has seen
	parts   map[string]bool    // components that are desired or reported on this link
	older   bool               // acknowledgements of older versions are good enough
	readers []*reader          // of the reported properties, sorted by name
}

// put sets a value of a map that is made when its first value comes: a twin without such values
// needs none.
func put[V any](m *map[string]V, key string, v V) {
	if *m == nil {
		*m = map[string]V{}
	}
	(*m)[key] = v
}

// newTwin returns a twin that knows nothing yet.
func newTwin(d *Device) twin {
	t := twin{d: d}
	for _, name := range slices.Sorted(maps.Keys(d.app.Reported)) {
		t.readers = append(t.readers, newReader(d, name, d.app.Reported[name]))
	}
	return t
}

// reconcile reads the document and sends, in one patch, what the reported part lacks: the
// acknowledgement of each desired property whose acknowledgement differs, and the device's own
// properties that differ. upTo is the version up to which every change has been acknowledged on
// this link, 0 if none has. If the document is not newer, acknowledgements of earlier versions are
// good enough.
func (t *twin) reconcile(ctx context.Context, l *hub.Link, upTo int64) (version int64, err error) {
	doc, err := t.read(ctx, l)
	if err != nil {
		return 0, err
	}
	t.older = upTo != 0 && doc.DesiredVersion == upTo
	patch := map[string]any{}
	clear(t.wanted)
	clear(t.parts)
	for name := range doc.Reported {
		put(&t.parts, name, isTagged(doc.Reported[name]))
	}
	if !t.d.app.Off.Desired {
		t.addRemoved("", doc.Desired, doc.Reported)
		t.judge(ctx, l, patch, doc.Desired, doc.DesiredVersion, doc.Reported)
	}
	t.addReported(ctx, l, patch, doc.Reported)
	return doc.DesiredVersion, t.report(ctx, l, patch)
}

// change acknowledges every key of a change. ask says that the document must be read: if a service
// replaces all desired properties, the hub may send only the new ones and not name the removed
// ones. So a change that leaves out a known desired property may be such a replacement.
func (t *twin) change(ctx context.Context, l *hub.Link, c *hub.Desired) (ask bool, err error) {
	if t.d.app.Off.Desired {
		return false, nil
	}
	var props map[string]json.RawMessage
	if err := json.Unmarshal(c.Body, &props); err != nil || props == nil {
		t.d.warn(l.Host(), "a desired change that is not a JSON object was ignored; the twin is read instead")
		return true, nil
	}
	before := maps.Clone(t.wanted)
	patch := map[string]any{}
	t.expand(props)
	t.judge(ctx, l, patch, props, c.Version, nil)
	for path := range before {
		ask = ask || !t.tells(props, path)
	}
	return ask, t.report(ctx, l, patch)
}

// read gets the document. It goes on asking if the hub refuses, because nothing else waits for it.
func (t *twin) read(ctx context.Context, l *hub.Link) (doc hub.TwinDocument, err error) {
	err = t.persist(ctx, l, "reading the twin", func(error) bool { return true }, func(ctx context.Context) error {
		doc, err = l.Twin(ctx)
		return err
	})
	return doc, err
}

// report sends a patch. If the hub refuses it, report sends its properties one by one, so that a
// bad one does not hide the good ones.
func (t *twin) report(ctx context.Context, l *hub.Link, patch map[string]any) error {
	if len(patch) == 0 {
		return nil
	}
	body, err := json.Marshal(patch)
	if err == nil && len(body) > maxReport {
		err = fmt.Errorf("%d bytes; a hub takes %d", len(body), maxReport)
	}
	if err != nil {
		return t.reportEach(ctx, l, patch, err)
	}
	err = t.persist(ctx, l, "reporting properties", busy, func(ctx context.Context) error {
		_, err := l.Report(ctx, body)
		return err
	})
	if refusal, refused := errors.AsType[*hub.TwinError](err); refused {
		return t.reportEach(ctx, l, patch, refusal)
	}
	return err
}

// reportEach sends the properties of a patch one by one, because the hub refused the whole patch.
// It tells which property the hub refuses.
func (t *twin) reportEach(ctx context.Context, l *hub.Link, patch map[string]any, why error) error {
	if len(patch) == 1 {
		t.d.floods.tell(ofDesired, 1, journal.Event{Kind: journal.Warning, Hub: l.Host(), Text: fmt.Sprintf("the hub refuses the reported property %s: %s",
			plain.Quoted(slices.Collect(maps.Keys(patch))[0]), plain.Line(why.Error(), plain.Most))})
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(patch)) {
		if err := t.report(ctx, l, map[string]any{name: patch[name]}); err != nil {
			return err
		}
	}
	return nil
}

// busy says whether a refusal is not the fault of the request.
func busy(err error) bool {
	refusal, refused := errors.AsType[*hub.TwinError](err)
	return refused && (refusal.Status == http.StatusTooManyRequests || refusal.Status >= 500)
}

// persist repeats a request of the twin while the hub does not answer it, or answers with an error
// for which again is true. It returns another error of the hub, or the end of the link.
func (t *twin) persist(ctx context.Context, l *hub.Link, what string, again func(error) bool, request func(context.Context) error) error {
	odd := false
	for wait := twinRetryMin; ; wait = min(2*wait, twinRetryMax) {
		short, cancel := context.WithTimeout(ctx, twinAnswer)
		err := request(short)
		unanswered := err != nil && short.Err() != nil && ctx.Err() == nil
		cancel()
		answered := errors.As(err, new(*hub.TwinError)) || errors.Is(err, hub.ErrTwin)
		if !unanswered && (!answered || !again(err)) {
			return err
		}
		if isOdd := errors.Is(err, hub.ErrTwin); !isOdd || !odd { // an answer that is no twin is told once in a row
			odd = isOdd
			t.d.warn(l.Host(), fmt.Sprintf("%s: %s; trying again in %v; everything else goes on", what, plain.Line(err.Error(), plain.Most), wait))
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-l.Done():
			timer.Stop()
			return l.Err()
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}
