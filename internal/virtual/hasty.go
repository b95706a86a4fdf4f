package virtual

import "github.com/hubhop-iot/hubhop/telemetry/outbox"

// HastyBox is an outbox that breaks its promise: it takes a message out as soon as a link is given
// it, and not when the hub has acknowledged it. What is in flight when a hub dies is lost. Whatever
// judges a device must find that.
type HastyBox struct{ *outbox.Box }

// OpenHasty opens an outbox as a [HastyBox].
func OpenHasty(dir string, o outbox.Options) (HastyBox, error) {
	b, err := outbox.Open(dir, o)
	return HastyBox{b}, err
}

// Read reads records, and acknowledges them at once.
func (b HastyBox) Read(into *outbox.Batch, limit, bytes int, parts ...outbox.Part) ([]outbox.Record, error) {
	records, err := b.Box.Read(into, limit, bytes, parts...)
	for _, r := range records {
		if err := b.Ack(r.Pos); err != nil {
			return records, err
		}
	}
	return records, err
}
