package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/cloudevents"
	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/endtest"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// cluster starts a Kafka cluster in this process, on real sockets.
func cluster(t *testing.T, opts ...kfake.Opt) (c *kfake.Cluster, host string) {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, c.ListenAddrs()[0]
}

// completions receives what became of each ticket.
type completions chan error

func (c completions) Done(tickets []uint64, err error) {
	for range tickets {
		c <- err
	}
}

// produce sends messages through a destination, and returns what became of them, in order of the
// completions.
func produce(t *testing.T, o DestinationOptions, ms ...node.Message) []error {
	t.Helper()
	d, err := NewDestination(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	to, tickets := make(completions, len(ms)), make([]uint64, len(ms))
	if _, err := d.Send(ctx, ms, to, tickets); err != nil {
		t.Fatal(err)
	}
	var errs []error
	for range ms {
		errs = append(errs, <-to)
	}
	return errs
}

// consume runs a source until got returns true, and acknowledges what ack names.
func consume(t *testing.T, o SourceOptions, ack func(m node.Message) bool, got func(m node.Message) bool) {
	t.Helper()
	s, err := NewSource(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	enough := false
	err = s.Run(ctx, func(d node.Delivery) bool {
		if enough {
			return false
		}
		if ack(d.Message) {
			s.Acked([]uint64{d.Ticket})
		}
		if enough = got(d.Message); enough {
			cancel()
		}
		return true
	})
	if err != nil {
		t.Error(err)
	}
	if !enough {
		t.Error("the source gave too little in a minute")
	}
}

func yes(node.Message) bool { return true }

// payloads collects payloads until there are n.
func payloads(into *[]string, n int) func(node.Message) bool {
	return func(m node.Message) bool {
		*into = append(*into, string(m.Payload))
		return len(*into) >= n
	}
}

func numbered(n int) (ms []node.Message) {
	for i := range n {
		ms = append(ms, node.Message{Payload: fmt.Append(nil, i)})
	}
	return ms
}

func TestMessagesComeOutAsTheyWentInWithEverySetting(t *testing.T) {
	for name, change := range map[string]func(*DestinationOptions){
		"defaults": func(*DestinationOptions) {},
		"gzip":     func(o *DestinationOptions) { o.Compression = Gzip },
		"snappy":   func(o *DestinationOptions) { o.Compression = Snappy },
		"lz4":      func(o *DestinationOptions) { o.Compression = Lz4 },
		"one":      func(o *DestinationOptions) { o.Acks = AcksOne },
		"zero":     func(o *DestinationOptions) { o.Acks = AcksZero },
		"single":   func(o *DestinationOptions) { o.Single = true },
		"linger":   func(o *DestinationOptions) { o.Latency = 5 * time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			_, host := cluster(t, kfake.SeedTopics(1, "t"))
			o := DestinationOptions{Connection: Connection{Host: host, ClientID: "c"}, Topic: "t"}
			change(&o)
			for _, err := range produce(t, o, numbered(50)...) {
				if err != nil {
					t.Error(err)
				}
			}
			var got, want []string
			consume(t, SourceOptions{Connection: Connection{Host: host}, Group: "g", Topics: []string{"t"}}, yes, payloads(&got, 50))
			for i := range 50 {
				want = append(want, fmt.Sprint(i))
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestOnlyWhatIsSafeIsCommitted(t *testing.T) {
	_, host := cluster(t, kfake.SeedTopics(1, "t"))
	produce(t, DestinationOptions{Connection: Connection{Host: host}, Topic: "t"}, numbered(6)...)
	o := SourceOptions{Connection: Connection{Host: host}, Group: "g", Topics: []string{"t"}}
	var first, second []string
	not := func(m node.Message) bool { return string(m.Payload) != "3" }
	consume(t, o, not, payloads(&first, 6))
	consume(t, o, yes, payloads(&second, 3))
	if want := []string{"3", "4", "5"}; !slices.Equal(second, want) {
		t.Errorf("after a restart come %q, want %q", second, want)
	}
}

func TestAPartitionThatGoesToAnotherMemberIsGivenWholeToIt(t *testing.T) {
	_, host := cluster(t, kfake.SeedTopics(8, "t"))
	produce(t, DestinationOptions{Connection: Connection{Host: host}, Topic: "t"}, numbered(400)...)
	o := SourceOptions{Connection: Connection{Host: host}, Group: "g", Topics: []string{"t"}}
	var mu sync.Mutex
	got := map[string]bool{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	member := func(owes bool) (*Source, func()) {
		s, err := NewSource(o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, leave := context.WithCancel(ctx)
		ended, began := make(chan struct{}), make(chan struct{}, 1)
		go func() {
			defer close(ended)
			_ = s.Run(ctx, func(d node.Delivery) bool {
				if owes { // it takes everything and makes nothing of it safe
					select {
					case began <- struct{}{}:
					default:
					}
					return true
				}
				mu.Lock()
				defer mu.Unlock()
				got[string(d.Message.Payload)] = true
				s.Acked([]uint64{d.Ticket})
				if len(got) == 400 {
					cancel()
				}
				return true
			})
		}()
		if owes {
			<-began
		}
		return s, func() { leave(); <-ended }
	}
	s, leave := member(true)
	_, end := member(false)
	leave()
	s.Acked([]uint64{0, 1, 1 << recordBits, 99 << recordBits}) // too late: nothing happens
	<-ctx.Done()
	end()
	if len(got) != 400 {
		t.Errorf("the member that stayed has %d of 400 records", len(got))
	}
}

func TestHeadersOfBothDirections(t *testing.T) {
	_, host := cluster(t, kfake.SeedTopics(1, "t"))
	m := node.Message{
		Topic: "in/topic", Payload: []byte("x"), ContentType: "application/json", Text: true, ResponseTopic: "r", Correlation: []byte{0xff},
		Expires: time.Now().Add(time.Hour), Properties: []node.Property{{Key: "a", Value: "1"}, {Key: "a", Value: "2"}, {Key: "p", Value: "key"}},
	}
	o := DestinationOptions{Connection: Connection{Host: host}, Endpoint: "kafka", Topic: "t", CopyProperties: true,
		CloudEvents: cloudevents.CreateOrRemap, Partition: ByProperty, PartitionKey: "p"}
	produce(t, o, m)
	o.CopyProperties, o.CloudEvents, o.Partition = false, cloudevents.AsTheyAre, ByTopic
	produce(t, o, m)

	client, err := kgo.NewClient(kgo.SeedBrokers(host), kgo.ConsumeTopics("t"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var records []*kgo.Record
	for len(records) < 2 {
		records = append(records, client.PollFetches(t.Context()).Records()...)
	}
	var keys []string
	for _, h := range records[0].Headers {
		keys = append(keys, h.Key)
	}
	want := []string{hFormat, hResponse, hExpiry, hCorrelation, hContent, "a", "a", "p", "ce_specversion", "ce_type", "ce_source", "ce_id", "ce_subject", "ce_time"}
	if !slices.Equal(keys, want) {
		t.Errorf("headers %q, want %q", keys, want)
	}
	if string(records[0].Key) != "key" || string(records[1].Key) != "in/topic" || len(records[1].Headers) != 0 {
		t.Errorf("keys %q, %q; headers %v", records[0].Key, records[1].Key, records[1].Headers)
	}

	consume(t, SourceOptions{Connection: Connection{Host: host}, Group: "g", Topics: []string{"t"}}, yes, func(back node.Message) bool {
		for key, value := range map[string]string{"a": "1", "specversion": "1.0", "source": "aio://kafka", pKey: "key", hResponse: "r"} {
			if got, _ := back.Get(key); got != value {
				t.Errorf("%s came back as %q, want %q", key, got, value)
			}
		}
		if _, ok := back.Get(hCorrelation); ok {
			t.Error("a header that is no text came back")
		}
		if at, _ := back.Get(pTime); at == "" || back.ContentType != "application/json" || back.Topic != "t" {
			t.Errorf("time %q, content type %q, topic %q", at, back.ContentType, back.Topic)
		}
		return true
	})
}

func TestSASLProvesWhoWeAre(t *testing.T) {
	for mechanism, name := range map[Mechanism]string{Plain: "PLAIN", Scram256: "SCRAM-SHA-256", Scram512: "SCRAM-SHA-512"} {
		t.Run(string(mechanism), func(t *testing.T) {
			_, host := cluster(t, kfake.SeedTopics(1, "t"), kfake.EnableSASL(), kfake.Superuser(name, "u", "right"))
			said := make(chan error, 10)
			var mu sync.Mutex
			password := "wrong"
			c := Connection{Host: host, Mechanism: mechanism, Report: func(err error) {
				said <- err
				mu.Lock()
				defer mu.Unlock()
				password = "right" // a person mends the secret, and it is read again
			}, Secret: func() (string, string, error) {
				mu.Lock()
				defer mu.Unlock()
				return "u", password, nil
			}}
			if errs := produce(t, DestinationOptions{Connection: c, Topic: "t"}, numbered(1)...); errs[0] != nil {
				t.Error(errs[0])
			}
			if err := <-said; err == nil || !strings.Contains(err.Error(), "check the authentication") {
				t.Errorf("said %v", err)
			}
			if err := <-said; err != nil {
				t.Errorf("and then %v", err)
			}
		})
	}
}

func TestAMissingTopicIsSaidAndTheMessagesWait(t *testing.T) {
	c, host := cluster(t, kfake.SeedTopics(1, "other"))
	said := make(chan error, 10)
	o := DestinationOptions{Connection: Connection{Host: host, Report: func(err error) {
		if err != nil {
			if err := c.CreateTopic("t", 1, nil); err != nil {
				t.Error(err)
			}
		}
		said <- err
	}}, Topic: "t"}
	if errs := produce(t, o, numbered(3)...); errors.Join(errs...) != nil {
		t.Error(errs)
	}
	if err := <-said; err == nil || !strings.Contains(err.Error(), "create the topic") {
		t.Errorf("said %v", err)
	}
}

func TestARecordThatIsTooLargeIsAFaultOfTheMessageAlone(t *testing.T) {
	_, host := cluster(t, kfake.SeedTopics(1, "t"))
	ms := numbered(3)
	ms[1].Payload = make([]byte, 3000)
	errs := produce(t, DestinationOptions{Connection: Connection{Host: host}, Topic: "t", MaxBytes: 2000}, ms...)
	bad := 0
	for _, err := range errs {
		if err != nil {
			bad++
		}
	}
	if bad != 1 {
		t.Errorf("%v, want one fault", errs)
	}
}

func TestAStaticPartitionIsAlwaysTheSame(t *testing.T) {
	o := DestinationOptions{Connection: Connection{ClientID: "c"}, Partition: Static}
	p := o.partitioner().ForTopic("t")
	first := p.Partition(&kgo.Record{}, 7)
	for range 10 {
		if got := p.Partition(&kgo.Record{}, 7); got != first {
			t.Errorf("partition %d, then %d", first, got)
		}
	}
}

// TestASourceIsLiveWhenItsBrokersAnswer: while it cannot fetch, what waits there may be older than
// the clock.
func TestASourceIsLiveWhenItsBrokersAnswer(t *testing.T) {
	c, host := cluster(t, kfake.SeedTopics(1, "t"))
	var refusing atomic.Bool
	var refused atomic.Int64
	refusing.Store(true)
	c.ControlKey(fetch, func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if !refusing.Load() {
			return nil, nil, false
		}
		refused.Add(1)
		return nil, errors.New("refused"), true
	})
	o := SourceOptions{Connection: Connection{Host: host}, Group: "g", Topics: []string{"t"}}
	s, err := NewSource(o)
	if err != nil {
		t.Fatal(err)
	}
	if s.Live() {
		t.Error("a source that does not run is live")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended, got := make(chan error, 1), make(chan string, 10)
	go func() {
		ended <- s.Run(ctx, func(d node.Delivery) bool {
			s.Acked([]uint64{d.Ticket})
			got <- string(d.Message.Payload)
			return true
		})
	}()
	again := func() {
		t.Helper()
		before := refused.Load()
		endtest.Until(t, "another fetch", func() bool { return refused.Load() >= before+2 })
	}
	again()
	if s.Live() {
		t.Error("a source that cannot fetch is live")
	}
	produce(t, DestinationOptions{Connection: o.Connection, Topic: "t"}, numbered(1)...)
	refusing.Store(false)
	endtest.Until(t, "the source", s.Live)
	if first := <-got; first != "0" {
		t.Errorf("got %q", first)
	}
	refusing.Store(true)
	again()
	endtest.Until(t, "the end of being live", func() bool { return !s.Live() })
	produce(t, DestinationOptions{Connection: o.Connection, Topic: "t"}, numbered(1)...)
	refusing.Store(false)
	endtest.Until(t, "the source, after the refusals", s.Live)
	cancel()
	if err := <-ended; err != nil || s.Live() {
		t.Errorf("%v, or a source that has stopped is live", err)
	}
}

// TestATroubleOfTheNetworkIsOverWhenFetchesAreAnswered, although no record comes.
func TestATroubleOfTheNetworkIsOverWhenFetchesAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			why  error
			over bool
		}{{io.EOF, true}, {kerr.TopicAuthorizationFailed, false}} {
			var said []error
			s := &state{of: &Connection{Report: func(err error) { said = append(said, err) }}}
			s.set(c.why)
			s.answered(1, nil)
			if len(said) != 1 {
				t.Errorf("%v: said %v at once", c.why, said)
			}
			time.Sleep(time.Minute)
			s.answered(1, nil)
			if over := len(said) == 2 && said[1] == nil; over != c.over {
				t.Errorf("%v: said %v after a minute", c.why, said)
			}
		}
	})
}

func TestABrokerThatDoesNotComeBackDoesNotCountForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, began := &state{of: &Connection{}}, time.Now()
		time.Sleep(time.Second)
		s.answered(1, nil)
		s.answered(2, io.EOF)
		if s.fetches(began) {
			t.Error("a broker with a broken connection does not count")
		}
		time.Sleep(time.Minute)
		s.answered(1, nil)
		if !s.fetches(began) {
			t.Error("a broker that is gone counts after a minute")
		}
		time.Sleep(2 * fetchWait)
		if s.fetches(began) {
			t.Error("a broker that has stopped to answer counts")
		}
	})
}

// TestABatchThatBurstsTheMemoryStopsItsPartitionOnly, and a person is told.
func TestABatchThatBurstsTheMemoryStopsItsPartitionOnly(t *testing.T) {
	_, host := cluster(t, kfake.SeedTopics(2, "t"))
	attacker, err := kgo.NewClient(kgo.SeedBrokers(host), kgo.ProducerBatchMaxBytes(80<<20), kgo.BrokerMaxWriteBytes(100<<20),
		kgo.ProducerBatchCompression(kgo.GzipCompression()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer attacker.Close()
	if err := attacker.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Partition: 0, Value: make([]byte, 48<<20)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	said := make(chan error, 10)
	s, err := NewSource(SourceOptions{Connection: Connection{Host: host, Report: func(err error) { said <- err }}, Group: "g", Topics: []string{"t"}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended, got := make(chan error, 1), make(chan int, 10)
	go func() {
		ended <- s.Run(ctx, func(d node.Delivery) bool {
			s.Acked([]uint64{d.Ticket})
			got <- len(d.Message.Payload)
			return true
		})
	}()
	if err := <-said; err == nil || !strings.Contains(err.Error(), "more than 32 MiB in memory") {
		t.Errorf("said %v", err)
	}
	if err := attacker.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Partition: 1, Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != 1 {
		t.Errorf("a record of %d bytes came", n)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(said) > 0 {
		t.Errorf("said %v, although the partition has stopped", <-said)
	}
}

// TestATroubleIsToldAgainWhenMoreIsKnown, and not whenever it changes back.
func TestATroubleIsToldAgainWhenMoreIsKnown(t *testing.T) {
	var said []string
	s := &state{of: &Connection{Host: "h", Report: func(err error) { said = append(said, fmt.Sprint(err)) }}}
	for _, err := range []error{io.EOF, io.EOF, kerr.SaslAuthenticationFailed, io.EOF, kerr.SaslAuthenticationFailed, nil, nil} {
		s.set(err)
	}
	if len(said) != 3 || !strings.Contains(said[0], "check that the brokers run") || !strings.Contains(said[1], "check the authentication") || said[2] != "<nil>" {
		t.Errorf("said %q", said)
	}
}
