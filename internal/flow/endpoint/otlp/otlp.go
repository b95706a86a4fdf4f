// Package otlp is the destination OpenTelemetry of a data flow graph: it sends metrics and logs to
// a collector over OTLP/gRPC (Microsoft's page "Configure OpenTelemetry data flow endpoints", and
// the OpenTelemetry Protocol Specification).
//
// A message is safe when the collector has accepted it. What the collector does with it afterwards
// is the collector's business. A message that has not the form of the page is at fault: it is
// completed with an error and never sent.
package otlp

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/credentials"
	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/queue"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

const (
	// DefaultLatency is how long a message waits for others, unless Options say otherwise.
	DefaultLatency = time.Minute
	// DefaultMaxMessages bounds the messages of one request, unless Options say otherwise.
	DefaultMaxMessages = 100_000

	quiet       = time.Second // a batch does not wait longer than that for its next message
	answerLimit = 30 * time.Second
	firstWait   = time.Second
	longestWait = time.Minute
)

// Options say where the collector is.
type Options struct {
	Host        string        // host:port, or a URL with the scheme http or https
	Latency     time.Duration // how long a message waits for others; 0: DefaultLatency
	MaxMessages int           // of one request; 0: DefaultMaxMessages
	Limits      queue.Limits
	// TLS returns the configuration of a connection, and is called before each; nil: connections
	// are not encrypted.
	TLS func() (*tls.Config, error)
	// Token returns a bearer token, and is called before each request; nil: none is sent.
	Token func() (string, error)
	// Report, which may be nil, is told why nothing is sent: at first, when more is known, and nil
	// when it works again.
	Report func(err error)
	// Log, which may be nil, is told what the collector says of requests that it took in part.
	Log func(text string)
}

// Target returns the host:port of a host as a manifest has it. encrypted says whether the URL wants
// TLS, if it is one.
func Target(host string) (target string, encrypted, isURL bool, err error) {
	if !strings.Contains(host, "://") {
		return host, false, false, nil
	}
	u, err := url.Parse(host)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" {
		return "", false, false, fmt.Errorf("%q is no collector; write host:4317, http://host:4317 or https://host:4317", host)
	}
	target = u.Host
	if u.Port() == "" {
		target += ":4317"
	}
	return target, u.Scheme == "https", true, nil
}

// Destination sends to a collector. Make one with New.
type Destination struct {
	opt     Options
	target  string
	queue   *queue.Queue
	failing bool
	said    string // the next step that was told
}

// New returns a destination. It connects when Run begins.
func New(o Options) (*Destination, error) {
	target, _, _, err := Target(o.Host)
	if err != nil {
		return nil, err
	}
	if o.Latency == 0 {
		o.Latency = DefaultLatency
	}
	if o.MaxMessages == 0 {
		o.MaxMessages = DefaultMaxMessages
	}
	if o.Report == nil {
		o.Report = func(error) {}
	}
	if o.Log == nil {
		o.Log = func(string) {}
	}
	return &Destination{opt: o, target: target, queue: queue.New(o.Limits)}, nil
}

// Send takes messages over, see [node.Destination].
func (d *Destination) Send(ctx context.Context, ms []node.Message, to node.Completion, tickets []uint64) (int, error) {
	return d.queue.Put(ctx, ms, to, tickets)
}

// Run connects and sends batches until ctx ends, see [node.Destination].
func (d *Destination) Run(ctx context.Context) error {
	c := connect(d.target, d.opt.TLS)
	defer c.close()
	for {
		items := d.collect(ctx)
		if len(items) == 0 {
			return nil
		}
		b := newBatch(items, d.queue)
		for wait := firstWait; !b.done(); {
			err := d.export(ctx, c, b)
			if err == nil {
				d.works()
				break
			}
			if ctx.Err() != nil {
				return nil
			}
			switch {
			case isFaultOfRequest(err) && len(b.items) > 1:
				b = d.oneByOne(ctx, c, b)
				continue
			case isFaultOfRequest(err):
				b.fail(err)
				continue
			}
			d.fails(c, err)
			if !sleep(ctx, wait) {
				return nil
			}
			wait = min(2*wait, longestWait)
		}
	}
}

// collect waits for a message, and then until the batch is full, its first message has waited long
// enough, or nothing has come for a while. The latter is because a source may owe so many
// acknowledgements that it sends nothing more before the batch is safe. It returns nothing when ctx
// ends.
func (d *Destination) collect(ctx context.Context) (items []queue.Item) {
	var late <-chan time.Time
	still := time.NewTimer(quiet)
	defer still.Stop()
	for {
		had := len(items)
		items = d.queue.Take(items, d.opt.MaxMessages-len(items))
		if len(items) > had {
			still.Reset(quiet)
		}
		if len(items) >= d.opt.MaxMessages || len(items) > 0 && d.queue.Full() {
			return items
		}
		if len(items) > 0 && late == nil {
			timer := time.NewTimer(d.opt.Latency)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-d.queue.Ready():
		case <-late:
			return items
		case <-still.C:
			if len(items) > 0 {
				return items
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// export sends what of a batch was not accepted yet, and completes its messages.
func (d *Destination) export(ctx context.Context, c *connection, b *batch) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	token := ""
	if d.opt.Token != nil {
		var err error
		if token, err = d.opt.Token(); err != nil {
			return credentials.Local(err)
		}
	}
	if m := b.metrics(); m != nil {
		answer, err := c.call(ctx, exportMetrics, token, m)
		if err != nil {
			return err
		}
		b.haveMetrics = true
		if n, why := rejected(answer); n > 0 {
			d.opt.Log(fmt.Sprintf("the collector rejected %d data points: %.200s", n, why))
		}
	}
	if m := b.logs(); m != nil {
		answer, err := c.call(ctx, exportLogs, token, m)
		if err != nil {
			return err
		}
		if n, why := rejected(answer); n > 0 {
			d.opt.Log(fmt.Sprintf("the collector rejected %d log records: %.200s", n, why))
		}
	}
	b.complete()
	return nil
}

// oneByOne sends the messages of a batch that the collector calls faulty in requests of their own,
// so that only the faulty ones are lost. It returns those that are still to be sent.
func (d *Destination) oneByOne(ctx context.Context, c *connection, b *batch) *batch {
	for i := range b.items {
		one := b.only(i)
		err := d.export(ctx, c, one)
		switch {
		case err == nil:
		case isFaultOfRequest(err):
			one.fail(err)
		default:
			return b.from(i)
		}
	}
	return b.from(len(b.items))
}

// isFaultOfRequest says whether a collector will never take a request, whoever tries again (OTLP
// specification, "Failures": the codes that are not retryable). A refusal of the caller is no such
// error: a person can mend it, and the messages wait.
func isFaultOfRequest(err error) bool {
	switch codeOf(err) {
	case codeInvalidArgument, codeFailedPrecondition, codeAlreadyExists, codeInternal, codeNotFound:
		return true
	default:
		return false
	}
}

// fails says why nothing is sent: the first time, and when more is known.
func (d *Destination) fails(c *connection, err error) {
	next := ""
	switch hint := credentials.Hint(err); {
	case credentials.IsLocal(err):
		next = "nothing was sent"
	case hint != "":
		next = hint
	case codeOf(err) == codeUnauthenticated, codeOf(err) == codePermissionDenied:
		next = "check the authentication of the endpoint"
	case codeOf(err) == codeUnimplemented:
		next = "the server there speaks gRPC, but has no OTLP receiver for this signal"
	}
	if d.failing && (next == "" || next == d.said) {
		return
	}
	d.failing, d.said = true, next
	d.opt.Report(fmt.Errorf("collector %s: %w; %s", d.target, err, cmp.Or(next, "check that the collector runs and listens for OTLP/gRPC there"+credentials.Shown(c.shows.Load()))))
}

func (d *Destination) works() {
	if d.failing {
		d.failing = false
		d.opt.Report(nil)
	}
}

// sleep waits, and returns false if ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
