package device

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/plain"
)

// reader reads one reported property.
type reader struct {
	d               *Device
	component, name string
	property        Reported // without Read: others report it through the device

	last  json.RawMessage // what was read last; nil: nothing
	due   time.Time       // of the next reading on this link; zero: with the twin only
	told  string          // the last error that was told; "" after a success
	rest  time.Duration   // pause after the last bug
	until time.Time       // end of that pause: last is used instead

	asked atomic.Bool // Read runs, perhaps left behind by a reading before
}

var errStillRead = errors.New("the reading before this one has not returned yet")

func newReader(d *Device, name string, property Reported) *reader {
	r := &reader{d: d, name: name, property: property}
	if component, short, found := strings.Cut(name, "*"); found {
		r.component, r.name = component, short
	}
	return r
}

// read returns the value as JSON; nil if there is none.
func (r *reader) read(ctx context.Context, l *hub.Link) json.RawMessage {
	if r.property.Read == nil {
		return r.d.kept.Value(spelled(r.component, r.name))
	}
	if time.Now().Before(r.until) {
		return r.last
	}
	value, err := invoke(ctx, r.d, "reported", func(ctx context.Context) (any, error) {
		if !r.asked.CompareAndSwap(false, true) { // else a Read that hangs would cost a goroutine at each interval
			return nil, errStillRead
		}
		defer r.asked.Store(false)
		return r.property.Read(ctx, Request{Kind: KindReported, Name: spelled(r.component, r.name), Device: r.d.id.DeviceID, Attempt: 1})
	})
	var text json.RawMessage
	if err == nil && value != nil {
		text, err = json.Marshal(value)
	}
	_, isBug := errors.AsType[*bug](err)
	switch {
	case ctx.Err() != nil: // the link has ended: nobody is asked any more
		return r.last
	case isBug: // it was told
		r.rest = min(max(2*r.rest, bugPauseMin), bugPauseMax)
		r.until = time.Now().Add(r.rest)
		text = nil
	case err != nil:
		if told := fmt.Sprintf("the property %s cannot be read: %s", plain.Quoted(spelled(r.component, r.name)), plain.Line(err.Error(), plain.Most)); told != r.told {
			r.told = told
			r.d.warn(l.Host(), told)
		}
		text = nil
	default:
		r.told, r.rest = "", 0
	}
	return text
}

// put puts a value into a patch, which may have acknowledgements of the same component. A nil value
// takes the property out of the twin.
func (r *reader) put(patch map[string]any, value json.RawMessage) {
	if r.component == "" {
		patch[r.name] = value
		return
	}
	part, ok := patch[r.component].(map[string]any)
	if !ok {
		part = map[string]any{componentTag: "c"}
		patch[r.component] = part
	}
	part[r.name] = value
}

// reported returns the value in a reported part; nil if it is not there.
func (r *reader) reported(part map[string]json.RawMessage) json.RawMessage {
	if r.component == "" {
		return part[r.name]
	}
	var inner map[string]json.RawMessage
	if json.Unmarshal(part[r.component], &inner) != nil {
		return nil
	}
	return inner[r.name]
}

// schedule begins the intervals of the reported properties anew.
func (t *twin) schedule() {
	now := time.Now()
	for _, r := range t.readers {
		r.due = time.Time{}
		if r.property.Every > 0 {
			r.due = now.Add(r.property.Every)
		}
	}
}

// untilDue returns how long it is until a property is due. It is a long time if none has an
// interval.
func (t *twin) untilDue() time.Duration {
	var next time.Time
	for _, r := range t.readers {
		if !r.due.IsZero() && (next.IsZero() || r.due.Before(next)) {
			next = r.due
		}
	}
	if next.IsZero() || t.d.app.Off.Reported {
		return never
	}
	return time.Until(next)
}

const never = 1000 * time.Hour

// reportDue reads the properties that are due, and reports those that have changed in one patch.
func (t *twin) reportDue(ctx context.Context, l *hub.Link) error {
	if t.d.app.Off.Reported {
		return nil
	}
	patch, now := map[string]any{}, time.Now()
	t.adopt()
	for _, r := range t.readers {
		if due := !r.due.IsZero() && !r.due.After(now); due {
			r.due = r.due.Add((now.Sub(r.due)/r.property.Every + 1) * r.property.Every) // no tick is made up for
		} else if r.property.Read != nil {
			continue
		}
		if value := r.read(ctx, l); !bytes.Equal(value, r.last) {
			r.last = value
			r.put(patch, value)
		}
	}
	return t.report(ctx, l, patch)
}

// addReported reads all properties, and adds to a patch those that differ from the reported part.
func (t *twin) addReported(ctx context.Context, l *hub.Link, patch map[string]any, part map[string]json.RawMessage) {
	if t.d.app.Off.Reported {
		return
	}
	t.adopt()
	for _, r := range t.readers {
		r.last = r.read(ctx, l)
		if (r.last != nil || r.property.Read == nil) && !sameJSON(r.reported(part), r.last) {
			r.put(patch, r.last)
		}
	}
}

// Report puts reported properties on the disk, and into the twin of each hub; null takes one out.
func (d *Device) Report(_ context.Context, values map[string]json.RawMessage) error {
	err := d.kept.Set(values)
	if l := d.serves(); err == nil && l != nil && !d.app.Off.Reported {
		l.duty.Load().twin.tick()
	}
	return err
}

// adopt takes over the names of the properties that others report.
func (t *twin) adopt() {
	for _, name := range t.d.kept.Names() {
		i := slices.IndexFunc(t.readers, func(r *reader) bool { return spelled(r.component, r.name) == name })
		if i < 0 {
			i, t.readers = len(t.readers), append(t.readers, newReader(t.d, name, Reported{}))
		}
		t.readers[i].property, t.readers[i].due = Reported{}, time.Time{}
	}
}
