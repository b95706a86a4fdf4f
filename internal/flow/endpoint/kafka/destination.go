package kafka

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/cloudevents"
	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/queue"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// Acks says when a message is safe.
type Acks uint8

// The acknowledgements, as kafkaAcks names them.
const (
	AcksAll Acks = iota
	AcksOne
	AcksZero // a message counts as safe when it is sent
)

// Partition says which partition a message goes to.
type Partition uint8

// The strategies, as partitionStrategy names them.
const (
	RoundRobin Partition = iota // Default
	Static                      // always the same, by the client id
	ByTopic                     // by the topic of the message
	ByProperty                  // by the user property PartitionKey
)

// Compression is the codec of a batch.
type Compression uint8

// The codecs.
const (
	Uncompressed Compression = iota
	Gzip
	Snappy
	Lz4
)

// DestinationOptions say where messages go, and how.
type DestinationOptions struct {
	Connection
	Endpoint       string // its name in the manifest, which is the source of CloudEvents that are made
	Topic          string
	Compression    Compression
	Single         bool          // a batch has one message; Latency and MaxMessages mean nothing then
	Latency        time.Duration // how long a batch waits for more messages; 0: not at all
	MaxMessages    int           // of a batch; 0: 100,000
	MaxBytes       int           // of a batch; 0: 1,000,000
	Acks           Acks
	Partition      Partition
	PartitionKey   string
	CopyProperties bool // copyMqttProperties
	CloudEvents    cloudevents.Mode
	Limits         queue.Limits
}

const (
	firstWait   = time.Second
	longestWait = 30 * time.Second
)

// Destination produces to a topic. Make one with NewDestination.
type Destination struct {
	opt   DestinationOptions
	kgo   []kgo.Opt
	queue *queue.Queue
	state state
}

// NewDestination returns a destination. It connects when Run begins.
func NewDestination(o DestinationOptions) (*Destination, error) {
	if o.MaxMessages == 0 {
		o.MaxMessages = 100_000
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 1_000_000
	}
	if o.Single {
		o.MaxMessages, o.Latency = 1, 0
	}
	d := &Destination{opt: o, queue: queue.New(o.Limits)}
	opts, err := d.opt.options(&d.state)
	if err != nil {
		return nil, err
	}
	opts = append(opts, kgo.DefaultProduceTopic(o.Topic), kgo.ProducerLinger(o.Latency), kgo.ProducerBatchMaxBytes(int32(o.MaxBytes)),
		kgo.RecordPartitioner(o.partitioner()), kgo.UnknownTopicRetries(2))
	switch o.Compression {
	case Uncompressed:
		opts = append(opts, kgo.ProducerBatchCompression(kgo.NoCompression()))
	case Gzip:
		opts = append(opts, kgo.ProducerBatchCompression(kgo.GzipCompression()))
	case Snappy:
		opts = append(opts, kgo.ProducerBatchCompression(kgo.SnappyCompression()))
	case Lz4:
		opts = append(opts, kgo.ProducerBatchCompression(kgo.Lz4Compression()))
	}
	switch o.Acks {
	case AcksAll:
	case AcksOne:
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(1))
	case AcksZero:
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(1))
	}
	d.kgo = opts
	return d, nil
}

// partitioner returns what chooses the partition of a record.
func (o *DestinationOptions) partitioner() kgo.Partitioner {
	switch o.Partition {
	case Static:
		h := fnv.New32a()
		_, _ = h.Write([]byte(o.ClientID))
		fixed := int(h.Sum32() >> 1)
		return kgo.BasicConsistentPartitioner(func(string) func(*kgo.Record, int) int {
			return func(_ *kgo.Record, n int) int { return fixed % n }
		})
	case ByTopic, ByProperty:
		return kgo.StickyKeyPartitioner(nil)
	case RoundRobin:
	}
	return kgo.RoundRobinPartitioner()
}

// Send takes messages over, see [node.Destination].
func (d *Destination) Send(ctx context.Context, ms []node.Message, to node.Completion, tickets []uint64) (int, error) {
	return d.queue.Put(ctx, ms, to, tickets)
}

// Run produces until ctx ends, see [node.Destination].
func (d *Destination) Run(ctx context.Context) error {
	client, err := kgo.NewClient(d.kgo...)
	if err != nil {
		return fmt.Errorf("kafka %s: %w", d.opt.Host, err)
	}
	defer client.Close()
	var items []queue.Item
	for {
		if items = d.queue.Take(items, d.opt.MaxMessages); len(items) == 0 {
			select {
			case <-d.queue.Ready():
				continue
			case <-ctx.Done():
				return nil
			}
		}
		for wait := firstWait; len(items) > 0; wait = min(2*wait, longestWait) {
			left, err := d.produce(ctx, client, items)
			items = append(items[:0], left...)
			if err == nil {
				d.state.set(nil)
				break
			}
			if ctx.Err() != nil {
				return nil
			}
			d.state.set(err)
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// produce sends messages and completes them. It returns those that are to be sent again, in order,
// and the first reason for that.
func (d *Destination) produce(ctx context.Context, client *kgo.Client, items []queue.Item) (left []queue.Item, why error) {
	errs := make([]error, len(items))
	var sent sync.WaitGroup
	now := time.Now()
	for i := range items {
		m := &items[i].Message
		sent.Add(1)
		client.Produce(ctx, d.record(m, now), func(_ *kgo.Record, err error) {
			errs[i] = err
			sent.Done()
		})
	}
	sent.Wait()
	for i := 0; i < len(items); {
		err, n := errs[i], 1
		for i+n < len(items) && (err == nil && errs[i+n] == nil) {
			n++
		}
		switch {
		case err == nil, isFaultOfMessage(err):
			d.queue.Complete(items[i:i+n], err)
		default:
			if why == nil {
				why = err
			}
			left = append(left, items[i:i+n]...)
		}
		i += n
	}
	return left, why
}

// record makes a record of a message.
func (d *Destination) record(m *node.Message, now time.Time) *kgo.Record {
	r := &kgo.Record{Value: m.Payload, Key: m.Key, Headers: d.opt.headers(m, now)}
	switch d.opt.Partition {
	case ByTopic:
		r.Key = []byte(m.Topic)
	case ByProperty:
		if value, ok := m.Get(d.opt.PartitionKey); ok {
			r.Key = []byte(value)
		}
	case RoundRobin, Static:
	}
	return r
}

// isFaultOfMessage says whether no other try will bring a message to Kafka.
func isFaultOfMessage(err error) bool {
	return slices.ContainsFunc([]error{kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.CorruptMessage}, func(e error) bool {
		return errors.Is(err, e)
	})
}
