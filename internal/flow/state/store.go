package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// The errors of a request, with the texts that Azure IoT Operations' state store sends.
var (
	ErrKeyLength = errors.New("the key length is zero")
	ErrQuota     = errors.New("the quota has been exceeded")
	ErrNeedFence = errors.New("a fencing token is required for this request")
	ErrLowFence  = errors.New("the request fencing token is a lower version that the fencing token protecting the resource")
	ErrFuture    = errors.New("the request timestamp is too far in the future; " +
		"ensure that the client and broker system clocks are synchronized")
	// ErrClosed says that the store was closed before the request was durable.
	ErrClosed = errors.New("the state store is closed")
)

const (
	// DefaultMaxBytes bounds keys and values unless Options say otherwise.
	DefaultMaxBytes = 16 << 20
	// MaxEntry is how many bytes a key, its value and the name in its fencing token may have
	// together.
	MaxEntry = outbox.MaxRecord - 1024
	// Overhead is what an entry is counted with beside its key and value, in bytes.
	Overhead = 160
	// skew is how far a request's time may be ahead of this machine's.
	skew = time.Minute
)

// Options are what a store may be given. The zero value is the usual one.
type Options struct {
	MaxBytes int64 // of keys and values, each entry counted with 160 bytes more; 0: DefaultMaxBytes
	// Outbox is what the log is opened with. FS and Report count; the store sets the rest.
	Outbox outbox.Options
	Log    func(text string) // what a person should know of the log, unless Outbox.Report hears it; may be nil
	Node   string            // names this store in the versions that it makes; "": "hubhop"
	spare  int64             // how far the log may outgrow the values before it is made short; 0: the usual
}

// Condition says when a Set takes place.
type Condition uint8

// The conditions.
const (
	Always        Condition = iota // sets in any case
	IfAbsent                       // NX: sets only if the key does not exist
	IfAbsentEqual                  // NEX: sets only if the key does not exist or has this value already
)

// SetOptions are what a Set may be given beside its key and value.
type SetOptions struct {
	If      Condition
	Expires time.Duration // how long the value lives; 0: for ever
	Fence   *node.Time    // the fencing token; nil: none
	At      node.Time     // the time of the request; the version becomes greater. Zero: not known
}

// Value is what a Get returns. Data must not be changed.
type Value struct {
	Data    []byte
	Version node.Time // of the Set that made it
	// Revision grows with every change of the key since this store was opened. It is for caches.
	Revision uint64
}

// Change is what a watcher is told: the new value of a key, or that the key is gone.
type Change struct {
	Key     string
	Data    []byte // nil after a deletion
	Deleted bool
	Version node.Time
}

// entry is a key's value in memory.
type entry struct {
	data     []byte
	version  node.Time
	fence    *node.Time // the newest fencing token; nil: the key is not protected
	expires  int64      // nanoseconds since 1970; 0: never
	revision uint64
	pos      uint64 // of its change in the log
}

// dead says whether the entry has expired.
func (e *entry) dead(now time.Time) bool { return e.expires != 0 && now.UnixNano() >= e.expires }

// size is what an entry counts.
func size(key string, e *entry) int64 {
	n := len(key) + len(e.data) + Overhead
	if e.fence != nil {
		n += len(e.fence.Node)
	}
	return int64(n)
}

// Store is an open state store. Its methods may be called from any goroutine.
type Store struct {
	most  int64
	spare int64       // how far the log may outgrow the values before it is made short
	log   *outbox.Box // nil: in memory only
	clock clock
	// newest is the change with the highest version, without its data. A deletion leaves no other
	// trace of its version.
	newest change

	mu       sync.RWMutex // guards the fields below, and is never held while the disk is called
	entries  map[string]*entry
	bytes    int64
	revision uint64
	watchers map[*watcher]struct{}

	line line // changes that wait to be durable
}

type watcher struct {
	key  string
	tell func(Change)
}

// NewMemory returns a store that keeps nothing on a disk.
func NewMemory(o Options) *Store {
	s := &Store{most: o.MaxBytes, spare: o.spare, entries: map[string]*entry{}, watchers: map[*watcher]struct{}{}}
	if s.most == 0 {
		s.most = DefaultMaxBytes
	}
	if s.spare == 0 {
		s.spare = spare
	}
	s.clock.node = o.Node
	if s.clock.node == "" {
		s.clock.node = "hubhop"
	}
	return s
}

// Open opens the store in dir, and makes it if there is none. Damage in the files costs the changes
// that it hit; Options.Outbox.Report is told of it. Open returns an error if a person must act, as
// [outbox.Open] does.
func Open(dir string, o Options) (*Store, error) {
	s := NewMemory(o)
	if o.Outbox.Report == nil && o.Log != nil {
		o.Outbox.Report = func(p outbox.Problem) {
			text := "state store: " + p.Text
			if p.Err != nil {
				text += ": " + p.Err.Error()
			}
			o.Log(text)
		}
	}
	box, err := outbox.Open(dir, outbox.Options{
		MaxBytes: 4 * (s.most + s.spare), // what the log has when it is made short, and room to do it
		Full:     outbox.Block,
		FS:       o.Outbox.FS,
		Report:   o.Outbox.Report,
	})
	if err != nil {
		return nil, fmt.Errorf("state store: %w", err)
	}
	s.log = box
	if err := s.load(); err != nil {
		return nil, errors.Join(err, box.Close())
	}
	return s, nil
}

// Close makes what waits durable, and unlocks the directory.
func (s *Store) Close() error {
	s.line.close()
	if s.log == nil {
		return nil
	}
	return s.log.Close()
}

// Get returns the value of a key. ok is false if there is none.
func (s *Store) Get(key string) (v Value, ok bool) {
	s.mu.RLock()
	e := s.entries[key]
	s.mu.RUnlock()
	if e == nil || e.dead(time.Now()) {
		return Value{}, false
	}
	return Value{Data: e.data, Version: e.version, Revision: e.revision}, true
}

// Set gives a key a value. set is false if the condition did not hold; then version is that of the
// value that stands. When err is nil, the change is durable. While the disk refuses, Set waits
// until ctx ends. After that, or after ErrClosed, the change may still take place, also at the next
// Open.
func (s *Store) Set(ctx context.Context, key string, value []byte, o SetOptions) (set bool, version node.Time, err error) {
	n, version, err := s.do(ctx, &request{kind: opSet, key: key, value: value, set: o})
	return n == 1, version, err
}

// Del deletes a key. It returns 1, or 0 if there was none. The fencing token and the time of the
// request mean what they mean in [SetOptions].
func (s *Store) Del(ctx context.Context, key string, fence *node.Time, at node.Time) (n int, version node.Time, err error) {
	return s.do(ctx, &request{kind: opDel, key: key, set: SetOptions{Fence: fence, At: at}})
}

// DelIf deletes a key if it has this value (VDEL). It returns 1, 0 if there was no such key, and -1
// if the value is another.
func (s *Store) DelIf(ctx context.Context, key string, value []byte, fence *node.Time, at node.Time) (n int, version node.Time, err error) {
	return s.do(ctx, &request{kind: opDelIf, key: key, value: value, set: SetOptions{Fence: fence, At: at}})
}

// Watch calls tell after each durable change of a key, in the order of the changes, until stop is
// called. tell must not block, and must not call the store but for Get.
func (s *Store) Watch(key string, tell func(Change)) (stop func()) {
	w := &watcher{key: key, tell: tell}
	s.mu.Lock()
	s.watchers[w] = struct{}{}
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		delete(s.watchers, w)
		s.mu.Unlock()
	}
}
