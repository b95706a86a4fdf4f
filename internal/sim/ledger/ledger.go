// Package ledger keeps the books of a cloud: every message from a device that reached a hub, in
// memory and, with a state directory, on disk.
//
// Counts are exact for ever, and bodies are kept for the newest messages. A connection collects
// messages in a [Batch] and commits it; when [Ledger.Commit] returns nil the messages count, and
// the device may be told so.
//
// Files: ledger.go has the Ledger itself, account.go counts and finds duplicates, entry.go keeps
// messages and decodes them, batch.go is messages under way, and disk.go, counts.go and restore.go
// are the files of the state directory.
package ledger

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/hubhop-iot/hubhop/internal/sim/store"
)

// Options say what a ledger keeps, and where.
type Options struct {
	Keep      int           // the number of messages whose bodies are kept, at least 1
	KeepBytes int64         // the bytes of bodies and properties that are kept
	Ahead     time.Duration // how far the cloud's clock is ahead of this machine's, for iothub-enqueuedtime

	Store *store.Store   // where the messages are written down; nil means that they are in memory only
	Log   zerolog.Logger // told of what was cut off at the start, and of files that cannot be deleted

	// SegmentBytes is the size from which on a file gets no more messages; 0 means 16 MB.
	SegmentBytes int64
	// CountsBytes is how many bytes of messages a restart reads at most to count them, about; 0
	// means 64 MB.
	CountsBytes int64
}

// Ledger is every message that reached a hub. Its methods may be called from any goroutine. They
// call nobody but the store, so a caller may hold any mutex of its own.
//
// Duplicates are found exactly, and in bounded memory where the ids are of the form
// <outbox id>-<seq>: an ordinary stream is one range of sequence numbers. Any other id costs 16
// bytes of a hash.
type Ledger struct {
	keep      int
	keepBytes int64
	ahead     time.Duration
	total     atomic.Int64 // messages since the start; Reset leaves it alone
	batches   sync.Pool    // of *Batch, so that only connections with messages under way have one

	mu       sync.Mutex // guards all below, the accounts, and the private fields of every Origin
	disk     *disk      // nil without a state directory
	accounts map[string]*account
	ring     []entry // the kept messages; it grows up to keep entries, and then turns
	head     int     // the oldest entry in ring
	count    int     // the number of entries in ring
	bytes    int64   // of their data
	chunk    []byte  // where the next message's bytes go
}

// Open returns the ledger that the state directory has, or an empty one. Its error names the file
// that is damaged or missing, and says what to do about it. The caller calls [Ledger.Close] before
// it closes the store.
func Open(o Options) (*Ledger, error) {
	l := newLedger(o)
	if o.Store == nil {
		return l, nil
	}
	d := newDisk(o.Store.Dir(), o)
	d.note = func(there segmentRange) error { return o.Store.Put(segmentsKey, there) }
	var err error
	if d.known, err = knownSegments(o.Store); err != nil {
		return nil, err
	}
	return l, l.openDisk(d)
}

func newLedger(o Options) *Ledger {
	return &Ledger{keep: o.Keep, keepBytes: o.KeepBytes, ahead: o.Ahead, accounts: map[string]*account{}}
}

// Origin is what all messages of one connection share. The exported fields must not change after
// the first message.
type Origin struct {
	Hub        string // its name
	Device     string
	Module     string // "" for the device itself
	AuthType   string // sas or x509CertificateAuthority
	Generation string // the generation id of the identity
	ModelID    string // "" for none

	account *account // nil before the first message
	ref     uint32   // names the origin in the files; 0 before it has a message there
	segment uint32   // the newest file that knows the name
}

// Enter writes one message down, see [Ledger.Commit].
func (l *Ledger) Enter(from *Origin, m Arrival) error { return l.Commit(from, l.Collect(nil, m)) }

// Collect adds a message to a batch, and returns it. A nil batch begins a new one. The message
// counts for nothing until the batch is committed.
func (l *Ledger) Collect(b *Batch, m Arrival) *Batch {
	if b == nil {
		b, _ = l.batches.Get().(*Batch)
		if b == nil {
			b = &Batch{}
		}
	}
	b.add(m)
	return b
}

// Commit writes the messages of a batch down, first on disk, if there is one. When it returns nil
// they count, so the PUBACKs may go. When it returns an error none of them does. The batch must not
// be used any more.
func (l *Ledger) Commit(from *Origin, b *Batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if from.account == nil {
		from.account = l.account(from.Device)
	}
	if l.disk != nil {
		if err := l.disk.append(l, from, b, now); err != nil {
			return fmt.Errorf("the ledger cannot be written: %w", err)
		}
	}
	l.apply(from, now, store.Unpack(b.buf[batchHead:]), true)
	l.total.Add(int64(b.n))
	if b.n = 0; cap(b.buf) <= maxIdleBatch {
		l.batches.Put(b)
	}
	return nil
}

// apply takes the messages of a batch into memory, and into the counts if count says so. It returns
// how many there were, and whether they made sense. mu is held.
func (l *Ledger) apply(from *Origin, now time.Time, f store.Unpacker, count bool) (n int, ok bool) {
	var scratch [64]byte
	for f.More() {
		m := nextArrival(&f)
		if f.Failed() {
			break
		}
		if n++; count {
			from.account.count(from.Hub, findMid(scratch[:0], m.Bag), now)
		}
		l.remember(entry{from: from, at: now, bag: int32(len(m.Bag)), dup: m.Dup, retain: m.Retain, will: m.Will}, m)
	}
	return n, f.OK()
}

// account returns the account of a device, made if need be. mu is held.
func (l *Ledger) account(device string) *account {
	a := l.accounts[device]
	if a == nil {
		a = &account{hubs: map[string]int64{}}
		l.accounts[device] = a
	}
	return a
}

// Total returns the number of messages since the start. Reset does not change it.
func (l *Ledger) Total() int64 { return l.total.Load() }

// Reset forgets what was received, on disk too. Connections go on. When it returns an error nothing
// is forgotten.
func (l *Ledger) Reset() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.disk != nil {
		if err := l.disk.clear(); err != nil {
			return err
		}
	}
	for _, a := range l.accounts {
		*a = account{hubs: map[string]int64{}}
	}
	l.ring, l.head, l.count, l.bytes, l.chunk = nil, 0, 0, 0, nil
	return nil
}

// WrapFile puts another file between the ledger and the file that it writes to now. It is for tests
// of full disks.
func (l *Ledger) WrapFile(wrap func(store.DiskFile) store.DiskFile) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.disk.file.Wrap(wrap)
}

// Close ends writing. It may be called on a nil Ledger.
func (l *Ledger) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.disk == nil {
		return nil
	}
	return l.disk.close()
}
