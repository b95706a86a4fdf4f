package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// SourceOptions say where records come from.
type SourceOptions struct {
	Connection
	Group  string   // consumerGroupId
	Topics []string // names, no patterns
}

const (
	commitEvery = time.Second
	pollAtMost  = 1000
	fetchWait   = 5 * time.Second // how long a broker without a record waits before it says so
	leaving     = 2 * time.Second // how long a source that stops waits for what it has handed in
	fetchBytes  = 8 << 20         // of one answer of a broker
	// batchBytes bounds what a compressed batch may become in memory. Whoever may write to a topic
	// could otherwise fill the memory of this machine with a batch of a few kilobytes.
	batchBytes = 32 << 20
)

// Source consumes topics as a member of a group. Make one with NewSource.
type Source struct {
	opt   SourceOptions
	kgo   []kgo.Opt
	state state

	mu     sync.Mutex
	client *kgo.Client
	parts  []*part         // by the number that tickets have; nil: the partition went to another member
	byName map[partKey]int // the number of a partition that this member has
	owed   int             // records handed in and not acknowledged, of partitions that it has
	has    int             // partitions that this member was assigned
	joined time.Time       // when that changed; zero: it is no member yet
	empty  chan<- struct{} // closed when owed is 0; nil: nobody waits
}

type partKey struct {
	topic     string
	partition int32
}

// part is one partition while this member has it.
type part struct {
	key   partKey
	first uint64     // the number of the oldest record in owed
	owed  []received // in the order of the offsets
}

type received struct {
	offset int64
	epoch  int32
	safe   bool
}

// A ticket has the number of the part above these bits, and that of the record below.
const recordBits = 40

// NewSource returns a source. It connects when Run begins.
func NewSource(o SourceOptions) (*Source, error) {
	s := &Source{opt: o, byName: map[partKey]int{}}
	opts, err := s.opt.options(&s.state)
	if err != nil {
		return nil, err
	}
	s.kgo = append(opts, kgo.ConsumerGroup(o.Group), kgo.ConsumeTopics(o.Topics...), kgo.AutoCommitMarks(), kgo.AutoCommitInterval(commitEvery),
		kgo.BlockRebalanceOnPoll(), kgo.OnPartitionsAssigned(s.gain), kgo.OnPartitionsRevoked(s.lose), kgo.OnPartitionsLost(s.lose),
		kgo.FetchMaxWait(fetchWait), kgo.MaxDecompressBatchBytes(batchBytes), kgo.FetchMaxBytes(fetchBytes), kgo.FetchMaxPartitionBytes(fetchBytes/8), kgo.MaxConcurrentFetches(2))
	return s, nil
}

// Run consumes until ctx ends, see [node.Source].
func (s *Source) Run(ctx context.Context, take func(node.Delivery) bool) error {
	client, err := kgo.NewClient(s.kgo...)
	if err != nil {
		return fmt.Errorf("kafka %s: %w", s.opt.Host, err)
	}
	s.mu.Lock()
	s.client = client
	s.mu.Unlock()
	s.consume(ctx, client, take)
	s.await()
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaving)
	defer cancel()
	_ = client.CommitMarkedOffsets(limit) // without it, records are repeated
	client.AllowRebalance()
	client.CloseAllowingRebalance()
	s.mu.Lock()
	s.client, s.parts, s.byName, s.owed, s.has, s.joined = nil, nil, map[partKey]int{}, 0, 0, time.Time{}
	s.mu.Unlock()
	return nil
}

// consume hands records in until ctx ends.
func (s *Source) consume(ctx context.Context, client *kgo.Client, take func(node.Delivery) bool) {
	for {
		fetches := client.PollRecords(ctx, pollAtMost)
		if ctx.Err() != nil {
			return
		}
		failed := false
		fetches.EachError(func(_ string, _ int32, err error) {
			if !errors.Is(err, context.Canceled) && !failed {
				failed = true
				s.state.set(err)
			}
		})
		for it := fetches.RecordIter(); !it.Done(); {
			r := it.Next()
			s.state.set(nil)
			d := node.Delivery{Message: message(r), From: s, Position: fmt.Sprintf("%s-%d-%d", r.Topic, r.Partition, r.Offset)}
			d.Source, d.Ticket = s.hold(r)
			if !take(d) {
				s.mu.Lock()
				s.owed-- // nobody will say that it is safe
				s.mu.Unlock()
				return
			}
		}
		client.AllowRebalance()
	}
}

// hold notes a record that is about to be handed in.
func (s *Source) hold(r *kgo.Record) (source int, ticket uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := partKey{r.Topic, r.Partition}
	n, ok := s.byName[key]
	if !ok {
		n = len(s.parts)
		s.parts = append(s.parts, &part{key: key})
		s.byName[key] = n
	}
	p := s.parts[n]
	p.owed = append(p.owed, received{offset: r.Offset, epoch: r.LeaderEpoch})
	s.owed++
	return n, uint64(n)<<recordBits | (p.first + uint64(len(p.owed)) - 1)
}

// Acked marks what may be committed: in each partition the records before the oldest that is not
// safe.
func (s *Source) Acked(tickets []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range tickets {
		n := t >> recordBits
		if n >= uint64(len(s.parts)) || s.parts[n] == nil {
			continue // the partition went to another member, which gets the record again
		}
		p := s.parts[n]
		if i := t&(1<<recordBits-1) - p.first; i < uint64(len(p.owed)) && !p.owed[i].safe {
			p.owed[i].safe = true
			s.owed--
		}
		s.mark(p)
	}
	if s.owed == 0 && s.empty != nil {
		close(s.empty)
		s.empty = nil
	}
}

// mark marks the safe records at the beginning of a partition. s.mu is held.
func (s *Source) mark(p *part) {
	n := 0
	for n < len(p.owed) && p.owed[n].safe {
		n++
	}
	if n == 0 || s.client == nil {
		return
	}
	last := p.owed[n-1]
	s.client.MarkCommitOffsets(map[string]map[int32]kgo.EpochOffset{
		p.key.topic: {p.key.partition: {Epoch: last.epoch, Offset: last.offset + 1}},
	})
	p.owed = p.owed[:copy(p.owed, p.owed[n:])]
	p.first += uint64(n)
}

// Live says that nothing older waits at the brokers, as far as can be told: the source is a member
// of its group, and the brokers have answered since it got its partitions, with records or without.
// A graph whose source is not live does not let the clock close its windows for the time being.
func (s *Source) Live() bool {
	s.mu.Lock()
	joined, has := s.joined, s.has
	s.mu.Unlock()
	return !joined.IsZero() && (has == 0 || s.state.fetches(joined))
}

// gain notes partitions that this member has got.
func (s *Source) gain(_ context.Context, _ *kgo.Client, got map[string][]int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.joined = time.Now()
	for _, partitions := range got {
		s.has += len(partitions)
	}
}

// lose forgets partitions that go to another member. What is safe of them is committed first.
func (s *Source) lose(ctx context.Context, client *kgo.Client, lost map[string][]int32) {
	_ = client.CommitMarkedOffsets(ctx) // without it, the other member repeats records
	s.mu.Lock()
	defer s.mu.Unlock()
	for topic, partitions := range lost {
		s.has -= len(partitions)
		for _, partition := range partitions {
			n, ok := s.byName[partKey{topic, partition}]
			if !ok {
				continue
			}
			for _, r := range s.parts[n].owed {
				if !r.safe {
					s.owed--
				}
			}
			s.parts[n] = nil
			delete(s.byName, partKey{topic, partition})
		}
	}
}

// await waits a moment until everything that was handed in is safe, so that it is not repeated.
func (s *Source) await() {
	s.mu.Lock()
	if s.owed == 0 {
		s.mu.Unlock()
		return
	}
	empty := make(chan struct{})
	s.empty = empty
	s.mu.Unlock()
	late := time.NewTimer(leaving)
	defer late.Stop()
	select {
	case <-empty:
	case <-late.C:
	}
}
