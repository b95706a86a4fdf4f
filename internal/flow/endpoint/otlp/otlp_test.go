package otlp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	collectorlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

// collector is an OTLP receiver on a real socket.
type collector struct {
	collectormetrics.UnimplementedMetricsServiceServer
	addr string

	mu     sync.Mutex
	got    []string // names of metrics and texts of logs
	tokens []string
	refuse func(names []string) error // nil: nothing is refused
}

type logService struct {
	collectorlogs.UnimplementedLogsServiceServer
	*collector
}

func (c *collector) take(ctx context.Context, names []string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	md, _ := metadata.FromIncomingContext(ctx)
	c.tokens = append(c.tokens, md.Get("authorization")...)
	if c.refuse != nil {
		if err := c.refuse(names); err != nil {
			return err
		}
	}
	c.got = append(c.got, names...)
	return nil
}

func (c *collector) Export(ctx context.Context, r *collectormetrics.ExportMetricsServiceRequest) (*collectormetrics.ExportMetricsServiceResponse, error) {
	var names []string
	for _, rm := range r.GetResourceMetrics() {
		for _, sm := range rm.GetScopeMetrics() {
			for _, m := range sm.GetMetrics() {
				names = append(names, m.GetName())
			}
		}
	}
	return &collectormetrics.ExportMetricsServiceResponse{}, c.take(ctx, names)
}

func (l logService) Export(ctx context.Context, r *collectorlogs.ExportLogsServiceRequest) (*collectorlogs.ExportLogsServiceResponse, error) {
	var names []string
	for _, rl := range r.GetResourceLogs() {
		for _, sl := range rl.GetScopeLogs() {
			for _, one := range sl.GetLogRecords() {
				names = append(names, one.GetBody().GetStringValue())
			}
		}
	}
	return &collectorlogs.ExportLogsServiceResponse{}, l.take(ctx, names)
}

// start serves on addr; empty: any free port.
func (c *collector) start(t *testing.T, addr string) (stop func()) {
	t.Helper()
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c.addr = l.Addr().String()
	s := grpc.NewServer()
	collectormetrics.RegisterMetricsServiceServer(s, c)
	collectorlogs.RegisterLogsServiceServer(s, logService{collector: c})
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return s.Stop
}

// completions receives what became of each ticket.
type completions chan completion

type completion struct {
	ticket uint64
	err    error
}

func (c completions) Done(tickets []uint64, err error) {
	for _, t := range tickets {
		c <- completion{t, err}
	}
}

// send runs a destination, sends payloads, and returns what became of each.
func send(t *testing.T, o Options, payloads ...string) map[uint64]error {
	t.Helper()
	d, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = d.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	to, all := make(completions, len(payloads)), map[uint64]error{}
	for i, p := range payloads {
		if _, err := d.Send(ctx, []node.Message{{Payload: []byte(p)}}, to, []uint64{uint64(i)}); err != nil {
			t.Fatal(err)
		}
	}
	for range payloads {
		c := <-to
		all[c.ticket] = c.err
	}
	return all
}

func gauge(name string) string {
	return fmt.Sprintf(`{"metrics":[{"name":%q,"type":"f64_gauge","value":1.5}]}`, name)
}

func TestMetricsAndLogsArriveAndOnlyFaultyMessagesAreLost(t *testing.T) {
	c := &collector{}
	c.start(t, "")
	all := send(t, Options{Host: c.addr, Token: func() (string, error) { return "secret", nil }},
		`{"metrics":[{"name":"a","type":"u64_counter","value":3,"attributes":[{"key":"k","value":"v"}]}],"logs":[{"value":"l1","level":"warn"}]}`,
		`{"metrics":[{"name":"b","type":"nonsense","value":3}]}`,
		`[]`,
		gauge("c"))
	for ticket, bad := range []bool{false, true, true, false} {
		if (all[uint64(ticket)] != nil) != bad {
			t.Errorf("message %d: %v", ticket, all[uint64(ticket)])
		}
	}
	if want := []string{"a", "c", "l1"}; !slices.Equal(c.got, want) {
		t.Errorf("the collector has %q, want %q", c.got, want)
	}
	if want := []string{"Bearer secret", "Bearer secret"}; !slices.Equal(c.tokens, want) {
		t.Errorf("tokens %q", c.tokens)
	}
}

func TestMessagesWaitForACollectorThatIsAwayOrRefusesTheCaller(t *testing.T) {
	for _, code := range []codes.Code{codes.Unavailable, codes.Unauthenticated, codes.ResourceExhausted} {
		t.Run(code.String(), func(t *testing.T) {
			c, times := &collector{}, 0
			c.refuse = func([]string) error {
				if times++; times == 1 {
					return status.Error(code, "not now")
				}
				return nil
			}
			c.start(t, "")
			var said []string
			all := send(t, Options{Host: c.addr, Report: func(err error) { said = append(said, fmt.Sprint(err)) }}, gauge("a"))
			if all[0] != nil || !slices.Equal(c.got, []string{"a"}) {
				t.Errorf("%v, the collector has %q", all[0], c.got)
			}
			if len(said) != 2 || !strings.Contains(said[0], "not now") || said[1] != "<nil>" {
				t.Errorf("said %q", said)
			}
		})
	}
}

func TestOneFaultyMessageDoesNotTakeTheOthersOfItsBatchAlong(t *testing.T) {
	c := &collector{}
	c.refuse = func(names []string) error {
		if slices.Contains(names, "poison") {
			return status.Error(codes.InvalidArgument, "poison")
		}
		return nil
	}
	c.start(t, "")
	all := send(t, Options{Host: "http://" + c.addr}, gauge("a"), gauge("poison"), gauge("b"))
	if all[0] != nil || all[1] == nil || all[2] != nil || !slices.Equal(c.got, []string{"a", "b"}) {
		t.Errorf("%v, the collector has %q", all, c.got)
	}
}

func TestTheConnectionIsEncryptedWhenTheEndpointSaysSo(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	server.EnableHTTP2 = true
	server.StartTLS() // makes a certificate, and a client that trusts it
	defer server.Close()
	c := &collector{}
	s := grpc.NewServer()
	collectormetrics.RegisterMetricsServiceServer(s, c)
	server.Config.Handler = s
	trusted := server.Client().Transport.(*http.Transport).TLSClientConfig
	all := send(t, Options{Host: server.Listener.Addr().String(), TLS: func() (*tls.Config, error) { return trusted.Clone(), nil }}, gauge("a"))
	if all[0] != nil || !slices.Equal(c.got, []string{"a"}) {
		t.Errorf("%v, the collector has %q", all[0], c.got)
	}
}

func TestAServerThatIsNoCollectorIsNamedAndTheMessagesWait(t *testing.T) {
	answers := 0
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		switch answers++; answers {
		case 1:
			http.NotFound(w, nil)
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 3: // a proxy's login page
			_, _ = io.WriteString(w, "<html>")
		default:
			w.Header().Set("Trailer", "Grpc-Status")
			_, _ = w.Write([]byte{0, 0, 0, 0, 8, 0x0a, 6, 8, 2, 0x12, 2, 'n', 'o'})
			w.Header().Set("Grpc-Status", "0")
		}
	}))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	defer server.Close()
	var said, logged []string
	all := send(t, Options{
		Host:   server.URL,
		Report: func(err error) { said = append(said, fmt.Sprint(err)) },
		Log:    func(text string) { logged = append(logged, text) },
	}, gauge("a"))
	if all[0] != nil || answers != 4 {
		t.Errorf("%v after %d answers", all[0], answers)
	}
	if len(said) != 2 || !strings.Contains(said[0], "no OTLP receiver") {
		t.Errorf("said %q", said)
	}
	if want := []string{"the collector rejected 2 data points: no"}; !slices.Equal(logged, want) {
		t.Errorf("logged %q", logged)
	}
}

func TestPayloadsThatDoNotFitAreFaultsThatNameTheKey(t *testing.T) {
	for payload, want := range map[string]string{
		`{}`:                                   "neither",
		`{"metrics":[]}`:                       "neither",
		`{"metrics":{}}`:                       "form",
		`{"metrics":[{}]} x`:                   "follows",
		`{"metrics":[{}]}`:                     `"name"`,
		`{"metrics":[{"name":"a","value":1}]}`: `"type"`,
		`{"metrics":[{"name":"a","type":"u64_gauge"}]}`:                                                `"value"`,
		`{"metrics":[{"name":"a","type":"u64_gauge","value":-1}]}`:                                     `whole number`,
		`{"metrics":[{"name":"a","type":"u64_gauge","value":1.5}]}`:                                    `whole number`,
		`{"metrics":[{"name":"a","type":"i64_gauge","value":1e3}]}`:                                    `whole number`,
		`{"metrics":[{"name":"a","type":"f64_counter","value":-1}]}`:                                   `cannot have`,
		`{"metrics":[{"name":"a","type":"f64_gauge","value":1e999}]}`:                                  `cannot have`,
		`{"metrics":[{"name":"a","type":"f64_gauge","value":1,"timestamp":-5}]}`:                       `"timestamp"`,
		`{"metrics":[{"name":"a","type":"f64_gauge","value":1,"attributes":[{"key":"k"}]}]}`:           `attributes[0]`,
		`{"metrics":[{"name":"a","type":"f64_gauge","value":1,"attributes":[{"key":"k","value":1}]}]}`: `form`,
		`{"logs":[{"level":"info"}]}`:                                                                  `"value"`,
		`{"logs":[{"value":"x"}]}`:                                                                     `"level"`,
		`{"logs":[{"value":"x","level":"critical"}]}`:                                                  `"level"`,
	} {
		if _, _, err := convert(&node.Message{Payload: []byte(payload)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", payload, err, want)
		}
	}
}

func TestValuesBecomeWhatTheirTypeSays(t *testing.T) {
	at := node.Time{Nanos: 77}
	for kind, want := range map[string]string{
		"u64_counter":         `name:"a" sum:{data_points:{time_unix_nano:77 as_int:3} aggregation_temporality:AGGREGATION_TEMPORALITY_DELTA is_monotonic:true}`,
		"f64_up_down_counter": `name:"a" sum:{data_points:{time_unix_nano:77 as_double:3} aggregation_temporality:AGGREGATION_TEMPORALITY_DELTA}`,
		"i64_gauge":           `name:"a" gauge:{data_points:{time_unix_nano:77 as_int:3}}`,
		"u64_histogram":       `name:"a" histogram:{data_points:{time_unix_nano:77 count:1 sum:3 bucket_counts:1 min:3 max:3} aggregation_temporality:AGGREGATION_TEMPORALITY_DELTA}`,
	} {
		for _, key := range []string{"type", "metric_type"} {
			ms, _, err := convert(&node.Message{Time: at, Payload: fmt.Appendf(nil, `{"metrics":[{"name":"a",%q:%q,"value":3,"other":{}}]}`, key, kind)})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(strings.Fields(ms[0].String()), " "); got != want {
				t.Errorf("%s:\n got %s\nwant %s", kind, got, want)
			}
		}
	}
}

func TestHostsAreReadInBothForms(t *testing.T) {
	for host, want := range map[string]string{
		"c:1": "c:1 false", "http://c:1": "c:1 false", "https://c": "c:4317 true", "https://c:2/": "c:2 true",
		"ftp://c": "error", "https://": "error", "https://c/path": "error", "http://\x00": "error",
	} {
		target, encrypted, _, err := Target(host)
		got := fmt.Sprint(target, " ", encrypted)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", host, got, want)
		}
	}
}

func TestExpiredMessagesAreNotSent(t *testing.T) {
	c := &collector{}
	c.start(t, "")
	d, err := New(Options{Host: c.addr})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = d.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	to := make(completions, 2)
	ms := []node.Message{{Payload: []byte(gauge("old")), Expires: time.Now()}, {Payload: []byte(gauge("new"))}}
	if _, err := d.Send(ctx, ms, to, []uint64{0, 1}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if c := <-to; c.err != nil {
			t.Error(c.err)
		}
	}
	if !slices.Equal(c.got, []string{"new"}) {
		t.Errorf("the collector has %q", c.got)
	}
}

// TestATroubleIsToldAgainWhenMoreIsKnown, and not whenever it changes back.
func TestATroubleIsToldAgainWhenMoreIsKnown(t *testing.T) {
	var said []string
	d, err := New(Options{Host: "h:1", Report: func(err error) { said = append(said, fmt.Sprint(err)) }})
	if err != nil {
		t.Fatal(err)
	}
	c, refused := &connection{}, &statusError{codeUnauthenticated, "no"}
	for _, err := range []error{io.EOF, io.EOF, refused, io.EOF, refused} {
		d.fails(c, err)
	}
	d.works()
	d.works()
	if len(said) != 3 || !strings.Contains(said[0], "check that the collector runs") || !strings.Contains(said[1], "check the authentication") || said[2] != "<nil>" {
		t.Errorf("said %q", said)
	}
}

// TestACollectorBehindABlackHoleIsReachedByAnotherConnection: HTTP/2 keeps the one that swallows
// all.
func TestACollectorBehindABlackHoleIsReachedByAnotherConnection(t *testing.T) {
	c := &collector{}
	c.start(t, "")
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var closing sync.WaitGroup
	defer closing.Wait()
	ended, end := context.WithCancel(t.Context())
	defer func() {
		end()
		_ = l.Close()
	}()
	var hole atomic.Bool // the first connection swallows all
	closing.Go(func() {
		for n := 0; ; n++ {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := new(net.Dialer).DialContext(t.Context(), "tcp", c.addr)
			if err != nil {
				t.Error(err)
				return
			}
			context.AfterFunc(ended, func() { _, _ = in.Close(), out.Close() })
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				closing.Go(func() {
					defer func() { _, _ = way[0].Close(), way[1].Close() }()
					buf := make([]byte, 4096)
					for {
						k, err := way[0].Read(buf)
						if err != nil {
							return
						}
						if n == 0 && hole.Load() {
							continue
						}
						if _, err := way[1].Write(buf[:k]); err != nil {
							return
						}
					}
				})
			}
		}
	})
	k := connect(l.Addr().String(), nil)
	defer k.close()
	call := func(limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		_, err := k.call(ctx, exportMetrics, "", &collectormetrics.ExportMetricsServiceRequest{})
		return err
	}
	if err := call(time.Minute); err != nil {
		t.Fatal(err)
	}
	hole.Store(true)
	if err := call(50 * time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the black hole answers: %v", err)
	}
	if err := call(20 * time.Second); err != nil {
		t.Error(err)
	}
}

func FuzzConvert(f *testing.F) {
	f.Add([]byte(gauge("a")))
	f.Add([]byte(`{"logs":[{"value":"x","level":"info","timestamp":1}]}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		ms, ls, err := convert(&node.Message{Payload: payload})
		if err == nil && len(ms)+len(ls) == 0 {
			t.Error("nothing was made, and there is no error")
		}
	})
}

func FuzzRejected(f *testing.F) {
	f.Add([]byte{0x0a, 6, 8, 2, 0x12, 2, 'n', 'o'})
	f.Fuzz(func(_ *testing.T, answer []byte) { rejected(answer) })
}
