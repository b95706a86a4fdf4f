package device

import (
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// readWithin is how long a look at the outbox waits for a disk.
const readWithin = 100 * time.Millisecond

// oldest is what was read last of the sample that waits longest. One is made when somebody asks for
// it, because only those who look at a device from outside do.
type oldest struct {
	mu      sync.Mutex
	batch   outbox.Batch
	pos     uint64 // 0: none was found
	left    uint64 // how many had left before it was read: until another one does, it is the oldest
	created time.Time
	reading chan struct{} // closed when the disk has been read; nil: nobody reads it
}

// oldestAge returns the age of the sample that waits longest, 0 if none waits. left is how many
// have left the outbox. If the disk does not answer soon, it is of the sample that was read before.
func (d *Device) oldestAge(box Outbox, left uint64) time.Duration {
	d.mu.Lock()
	if d.oldest == nil {
		d.oldest = new(oldest)
	}
	o := d.oldest
	d.mu.Unlock()
	o.mu.Lock()
	reading := o.reading
	if reading == nil && (o.pos == 0 || o.left != left || d.c.Outbox.MaxAge > 0) { // a sample that is too old leaves when it is read
		reading = make(chan struct{})
		o.reading, o.left = reading, left
		d.spawn("status", func() { o.read(box, reading) })
	}
	o.mu.Unlock()
	if reading != nil {
		select {
		case <-reading:
		case <-time.After(readWithin):
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.pos == 0 {
		return 0
	}
	return max(0, d.time.Now().Sub(d.time.Made(o.pos, o.created)))
}

// read reads the oldest sample.
func (o *oldest) read(box Outbox, done chan struct{}) {
	var pos uint64
	var created time.Time
	defer func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.batch.Release()
		o.pos, o.created, o.reading = pos, created, nil
		close(done)
	}()
	records, err := box.Read(&o.batch, 1, 1, outbox.Part{}) // nobody else uses the batch
	if err == nil && len(records) > 0 {
		pos, created = records[0].Pos, records[0].Created
	}
}
