package dps

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/hubhop-iot/hubhop/internal/memnet"
	"github.com/hubhop-iot/hubhop/internal/mqtt/mqtttest"
)

// reply is one scripted answer of DPS.
type reply struct {
	status int
	retry  string // as DPS spells it; "" leaves it out
	body   string
}

const (
	assigning = `{"operationId":"5.71cf.1111","status":"assigning"}`
	assigned  = `{"operationId":"5.71cf.1111","status":"assigned","registrationState":{"assignedHub":"hub-a","deviceId":"dev-001","status":"assigned","substatus":"initialAssignment"}}`
)

// scripted is a DPS that answers request by request, over both transports, in virtual time.
type scripted struct {
	t       *testing.T
	net     *memnet.Net
	client  *Client
	replies []reply
	date    time.Time                       // HTTPS: of all answers; zero: when they are sent
	before  func(conn net.Conn, n int) bool // false: the n-th request is not answered, and the connection ends

	mu       sync.Mutex
	requests []string        // what came, in the words of MQTT or HTTP
	times    []time.Duration // when, since the start
	began    time.Time
}

func bubble(t *testing.T, transport Transport, f func(t *testing.T, s *scripted)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cert, pool := memnet.Certificate(t, "10.0.0.1")
		s := &scripted{t: t, net: memnet.New(), began: time.Now(), client: testClient()}
		s.client.Host, s.client.Transport, s.client.DialContext = "10.0.0.1", transport, s.net.DialContext
		s.client.TLS = &tls.Config{RootCAs: pool}
		conf := &tls.Config{Certificates: []tls.Certificate{cert}}
		mqtt, err := s.net.Listen("tcp", "10.0.0.1:8883")
		if err != nil {
			t.Fatal(err)
		}
		https, err := s.net.Listen("tcp", "10.0.0.1:443")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := mqtt.Accept()
				if err != nil {
					return
				}
				wg.Go(func() { s.serveMQTT(tls.Server(c, conf)) })
			}
		})
		server := &http.Server{Handler: http.HandlerFunc(s.serveHTTP)}
		wg.Go(func() { _ = server.Serve(tls.NewListener(https, conf)) })
		f(t, s)
		_ = mqtt.Close()
		_ = server.Close()
		wg.Wait()
	})
}

// next takes a request and returns its answer.
func (s *scripted) next(request string) (reply, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, request)
	s.times = append(s.times, time.Since(s.began))
	n := len(s.requests) - 1
	if n >= len(s.replies) {
		s.t.Errorf("request %d was not expected: %s", n, request)
		return reply{status: 500}, n
	}
	return s.replies[n], n
}

func (s *scripted) serveMQTT(c net.Conn) {
	defer func() { _ = c.Close() }()
	peer := mqtttest.Peer{T: s.t, Conn: c}
	for {
		switch p := peer.Read().(type) {
		case *packets.ConnectPacket:
			peer.Send(mqtttest.Connack())
		case *packets.SubscribePacket:
			peer.Suback(p, 1)
		case *packets.PublishPacket:
			peer.Puback(p.MessageID)
			r, n := s.next(p.TopicName + " " + string(p.Payload))
			if s.before != nil && !s.before(c, n) {
				return
			}
			_, query, _ := strings.Cut(p.TopicName, "$rid=")
			rid, _, _ := strings.Cut(query, "&")
			// Late and foreign answers come first: a client that does not look at the rid takes
			// them for its own.
			respond(&peer, 401, "/?$rid=foreign", `{"errorCode":401000}`)
			topic := "/?$rid=" + rid
			if r.retry != "" {
				topic = "/?retry-after=" + r.retry + "&$rid=" + rid
			}
			respond(&peer, r.status, topic, r.body)
		case *packets.DisconnectPacket, nil:
			return
		}
	}
}

// respond sends an answer of DPS.
func respond(p *mqtttest.Peer, status int, query, body string) {
	p.Publish(fmt.Sprintf("$dps/registrations/res/%d%s", status, query), body, 1, 1)
}

func (s *scripted) serveHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r, n := s.next(req.Method + " " + req.URL.Path + " " + string(body))
	if s.before != nil && !s.before(nil, n) {
		panic(http.ErrAbortHandler)
	}
	if req.Header.Get("Authorization") == "" || !strings.HasPrefix(req.Header.Get("Authorization"), "SharedAccessSignature sr=0ne00ABCDEF%2Fregistrations%2Fdev-001&sig=") {
		s.t.Errorf("Authorization %q", req.Header.Get("Authorization"))
	}
	if r.retry != "" {
		w.Header().Set("Retry-After", r.retry)
	}
	if !s.date.IsZero() {
		w.Header().Set("Date", s.date.UTC().Format(http.TimeFormat))
	}
	w.WriteHeader(r.status)
	_, _ = io.WriteString(w, r.body)
}

var transports = []Transport{MQTT, HTTPS}

// TestRetryAfterIsHonouredExactly: as sent, 0 included; 2 s when it is absent; polls at 0 are
// spaced, doubling; never more than 300 s.
func TestRetryAfterIsHonouredExactly(t *testing.T) {
	for name, v := range map[string]struct {
		retry []string
		waits []time.Duration
	}{
		"three seconds":  {[]string{"3", "3"}, []time.Duration{3 * time.Second, 3 * time.Second}},
		"absent":         {[]string{"", ""}, []time.Duration{2 * time.Second, 2 * time.Second}},
		"nonsense":       {[]string{"soon"}, []time.Duration{2 * time.Second}},
		"a long one":     {[]string{"120"}, []time.Duration{120 * time.Second}},
		"zero":           {[]string{"0"}, []time.Duration{0}},
		"zero for long":  {[]string{"0", "0", "0", "0", "0", "0", "0", "0", "0"}, []time.Duration{0, 50e6, 100e6, 200e6, 400e6, 800e6, 1600e6, 2e9, 2e9}},
		"zero after one": {[]string{"1", "0", "1", "0"}, []time.Duration{1e9, 0, 1e9, 50e6}},
	} {
		for _, transport := range transports {
			t.Run(name+" over "+string(transport), func(t *testing.T) {
				bubble(t, transport, func(t *testing.T, s *scripted) {
					for _, r := range v.retry {
						s.replies = append(s.replies, reply{202, r, assigning})
					}
					s.replies = append(s.replies, reply{200, "", assigned})
					a, err := s.client.Register(t.Context(), Request{})
					if err != nil || a != (Assignment{"hub-a", "dev-001", "initialAssignment"}) {
						t.Fatalf("%+v %v", a, err)
					}
					for i, want := range v.waits {
						if got := s.times[i+1] - s.times[i]; got != want {
							t.Errorf("poll %d came after %v, not %v", i, got, want)
						}
					}
				})
			})
		}
	}
}

func TestRequestsAreThoseOfTheDocumentation(t *testing.T) {
	for transport, want := range map[Transport][]string{
		MQTT: {
			`$dps/registrations/PUT/iotdps-register/?$rid=1 {"registrationId":"dev-001","payload":{"modelId":"dtmi:Sample:Failover;1"}}`,
			`$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId=5.71cf.1111 `,
		},
		HTTPS: {
			`PUT /0ne00ABCDEF/registrations/dev-001/register {"registrationId":"dev-001","payload":{"modelId":"dtmi:Sample:Failover;1"}}`,
			`GET /0ne00ABCDEF/registrations/dev-001/operations/5.71cf.1111 `,
		},
	} {
		bubble(t, transport, func(t *testing.T, s *scripted) {
			s.replies = []reply{{202, "0", assigning}, {200, "", assigned}}
			if _, err := s.client.Register(t.Context(), Request{}); err != nil {
				t.Fatal(err)
			}
			for i, w := range want {
				if s.requests[i] != w {
					t.Errorf("%s: request %d is %q", transport, i, s.requests[i])
				}
			}
		})
	}
}

// TestRegistrationTakesAsFewRoundTripsAsItCan: TCP, TLS 1.3, one for the request whatever comes
// before it, and one for each poll, beside the waits that DPS asks for.
func TestRegistrationTakesAsFewRoundTripsAsItCan(t *testing.T) {
	const trip = 50 * time.Millisecond
	at := func(retry string) reply { return reply{202, retry, assigning} }
	for name, v := range map[string]struct {
		request Request
		replies []reply
		want    time.Duration
	}{
		"assigned at once":          {Request{}, []reply{{200, "", assigned}}, 3 * trip},
		"one poll, retry-after 0":   {Request{}, []reply{at("0"), {200, "", assigned}}, 4 * trip},
		"one poll, retry-after 3":   {Request{}, []reply{at("3"), {200, "", assigned}}, 4*trip + 3*time.Second},
		"sequential, one poll at 0": {Request{Sequential: true}, []reply{at("0"), {200, "", assigned}}, 6 * trip},
	} {
		for _, transport := range transports {
			bubble(t, transport, func(t *testing.T, s *scripted) {
				s.net.SetDelay(trip / 2)
				s.replies = v.replies
				want := v.want
				if v.request.Sequential && transport == HTTPS {
					want = 4 * trip // there is nothing before the request
				}
				began := time.Now()
				if _, err := s.client.Register(t.Context(), v.request); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took != want {
					t.Errorf("%s, %s: %v, want %v", name, transport, took, want)
				}
			})
		}
	}
}

func TestSequentialRegistrationWaitsForEachAnswer(t *testing.T) {
	bubble(t, MQTT, func(t *testing.T, s *scripted) {
		s.replies = []reply{{202, "3", assigning}, {200, "", assigned}}
		if _, err := s.client.Register(t.Context(), Request{Sequential: true}); err != nil {
			t.Fatal(err)
		}
	})
}

// TestEveryAnswerBecomesItsError goes through the statuses and bodies of DPS.
func TestEveryAnswerBecomesItsError(t *testing.T) {
	for name, v := range map[string]struct {
		replies []reply
		want    Error
	}{
		"bad key":        {[]reply{{401, "", `{"errorCode":401000,"trackingId":"tr","message":"Unauthorized"}`}}, Error{Step: StepRegister, Status: 401, Code: 401000, RetryAfter: -1}},
		"throttled":      {[]reply{{429, "7", `{"errorCode":429001}`}}, Error{Step: StepRegister, Status: 429, Code: 429001, RetryAfter: 7 * time.Second}},
		"internal":       {[]reply{{500, "", ``}}, Error{Step: StepRegister, Status: 500, RetryAfter: -1}},
		"not enrolled":   {[]reply{{404, "", `{"errorCode":404201}`}}, Error{Step: StepRegister, Status: 404, Code: 404201, RetryAfter: -1}},
		"blocked":        {[]reply{{202, "1", assigning}, {200, "", `{"operationId":"5","status":"failed","registrationState":{"status":"failed","errorCode":400209}}`}}, Error{Step: StepPoll, Status: 200, Code: 400209, State: "failed", RetryAfter: -1}},
		"disabled":       {[]reply{{200, "", `{"operationId":"","status":"disabled","registrationState":{"status":"disabled"}}`}}, Error{Step: StepRegister, Status: 200, State: "disabled", RetryAfter: -1}},
		"lost operation": {[]reply{{202, "1", assigning}, {404, "", `{"errorCode":404202}`}}, Error{Step: StepPoll, Status: 404, Code: 404202, RetryAfter: -1}},
		"no hub":         {[]reply{{200, "", `{"status":"assigned","registrationState":{}}`}}, Error{Step: StepRegister, Status: 200, RetryAfter: -1}},
		"no operation":   {[]reply{{202, "1", `{"status":"assigning"}`}}, Error{Step: StepRegister, Status: 202, RetryAfter: -1}},
		"no JSON":        {[]reply{{200, "", `hello`}}, Error{Step: StepRegister, Status: 200, RetryAfter: -1}},
	} {
		for _, transport := range transports {
			t.Run(name+" over "+string(transport), func(t *testing.T) {
				bubble(t, transport, func(t *testing.T, s *scripted) {
					s.replies = v.replies
					_, err := s.client.Register(t.Context(), Request{})
					e, ok := errors.AsType[*Error](err)
					if !ok {
						t.Fatal(err)
					}
					if e.Step != v.want.Step || e.Status != v.want.Status || e.Code != v.want.Code || e.State != v.want.State || e.RetryAfter != v.want.RetryAfter || !e.Counted || e.Host != "10.0.0.1" {
						t.Errorf("%#v", e)
					}
				})
			})
		}
	}
}

// TestThrottledPollGoesOn: a poll that is refused says nothing about the registration.
func TestThrottledPollGoesOn(t *testing.T) {
	for _, transport := range transports {
		bubble(t, transport, func(t *testing.T, s *scripted) {
			s.replies = []reply{{202, "3", assigning}, {429, "5", `{"errorCode":429001}`}, {503, "", ``}, {200, "", assigned}}
			if _, err := s.client.Register(t.Context(), Request{}); err != nil {
				t.Fatal(err)
			}
			if d := s.times[3]; d != 10*time.Second {
				t.Errorf("%s: 3 s, then 5 s, then the 2 s of an absent retry-after make %v", transport, d)
			}
		})
	}
}

func TestStuckRegistrationEnds(t *testing.T) {
	for _, transport := range transports {
		bubble(t, transport, func(t *testing.T, s *scripted) {
			for range 100 {
				s.replies = append(s.replies, reply{202, "3", assigning})
			}
			_, err := s.client.Register(t.Context(), Request{})
			if took := time.Since(s.began); !errors.Is(err, ErrStuck) || took > stuckAfter || took < stuckAfter-5*time.Second {
				t.Errorf("%s: after %v: %v", transport, took, err)
			}
		})
	}
}

// TestBrokenConnectionIsNoticedAtOnceAndCountedRightly: refused, silent, and dropped in the middle,
// at once noticed and rightly counted.
func TestBrokenConnectionIsNoticedAtOnceAndCountedRightly(t *testing.T) {
	for _, transport := range transports {
		t.Run(string(transport), func(t *testing.T) {
			bubble(t, transport, func(t *testing.T, s *scripted) {
				s.client.Host = "10.0.0.9"
				_, err := s.client.Register(t.Context(), Request{})
				if e, ok := errors.AsType[*Error](err); !ok || e.Step != StepDial || e.Counted {
					t.Errorf("refused: %#v", err)
				}
				s.client.Host = "10.0.0.1"
				for _, port := range []string{"8883", "443"} {
					s.net.Cut("10.0.0.1:" + port)
				}
				began := time.Now()
				_, err = s.client.Register(t.Context(), Request{Patience: 5 * time.Second})
				if e, ok := errors.AsType[*Error](err); !ok || e.Counted || time.Since(began) != 5*time.Second {
					t.Errorf("silent: %#v after %v", err, time.Since(began))
				}
				for _, port := range []string{"8883", "443"} {
					s.net.Mend("10.0.0.1:" + port)
				}
				s.replies = []reply{{202, "3", assigning}, {200, "", assigned}}
				s.before = func(_ net.Conn, n int) bool { return n == 0 }
				_, err = s.client.Register(t.Context(), Request{})
				if e, ok := errors.AsType[*Error](err); !ok || !e.Counted || e.Step != StepPoll {
					t.Errorf("dropped at the poll: %#v", err)
				}
			})
		})
	}
	bubble(t, MQTT, func(t *testing.T, s *scripted) {
		s.replies = []reply{{202, "60", assigning}}
		s.before = func(c net.Conn, _ int) bool {
			go func() {
				time.Sleep(10 * time.Second)
				_ = c.Close()
			}()
			return true
		}
		_, err := s.client.Register(t.Context(), Request{})
		if took := time.Since(s.began); took != 10*time.Second || err == nil {
			t.Errorf("closed while waiting for the poll: noticed after %v: %v", took, err)
		}
	})
}

func TestAdmissionComesBeforeTheRegistration(t *testing.T) {
	for _, transport := range transports {
		bubble(t, transport, func(t *testing.T, s *scripted) {
			s.replies = []reply{{202, "0", assigning}, {200, "", assigned}}
			admitted := 0
			_, err := s.client.Register(t.Context(), Request{Admit: func(context.Context) error {
				admitted++
				time.Sleep(time.Minute)
				if len(s.requests) != 0 {
					t.Errorf("%s: registered before it was admitted", transport)
				}
				return nil
			}})
			if err != nil || admitted != 1 {
				t.Errorf("%s: admitted %d times: %v", transport, admitted, err)
			}
		})
	}
}

// TestAdmissionIsNotWasted: a DPS that cannot be reached costs the process none of its rate; and a
// connection that has waited for that rate for long, so that DPS may have closed it, is replaced
// before it is used.
func TestAdmissionIsNotWasted(t *testing.T) {
	for _, transport := range transports {
		bubble(t, transport, func(t *testing.T, s *scripted) {
			admitted := 0
			admit := func(wait time.Duration) func(context.Context) error {
				return func(context.Context) error { admitted++; time.Sleep(wait); return nil }
			}
			s.client.Host = "10.0.0.9"
			if _, err := s.client.Register(t.Context(), Request{Admit: admit(0)}); err == nil || admitted != 0 {
				t.Errorf("%s: admitted %d times to nobody: %v", transport, admitted, err)
			}
			s.client.Host = "10.0.0.1"
			for i, v := range []struct {
				wait  time.Duration
				dials int
			}{{time.Second, 1}, {time.Minute, 2}} {
				s.replies = append(s.replies, reply{200, "", assigned})
				before := s.net.Dials(port[transport])
				_, err := s.client.Register(t.Context(), Request{Admit: admit(v.wait)})
				if n := s.net.Dials(port[transport]) - before; err != nil || n != v.dials || admitted != i+1 {
					t.Errorf("%s, after %v: %d connections, admitted %d times: %v", transport, v.wait, n, admitted, err)
				}
			}
			time.Sleep(2 * time.Second)
			if n := s.net.Open(port[transport]); n != 0 {
				t.Errorf("%d connections are left", n)
			}
		})
	}
}

func TestEndOfContextEndsARegistration(t *testing.T) {
	for _, transport := range transports {
		bubble(t, transport, func(t *testing.T, s *scripted) {
			s.replies = []reply{{202, "60", assigning}}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err := s.client.Register(ctx, Request{})
			if took := time.Since(s.began); !errors.Is(err, context.DeadlineExceeded) || took != 5*time.Second {
				t.Errorf("%s: after %v: %v", transport, took, err)
			}
		})
	}
}

// TestErrorTellsHowFarTheClockIsOff: over HTTPS DPS's answer carries its time, so a refusal can say
// that the clock is to blame.
func TestErrorTellsHowFarTheClockIsOff(t *testing.T) {
	e := &Error{Step: StepRegister, Host: "h", Status: 401, Code: 401000, Skew: 2 * time.Hour}
	if !strings.Contains(e.Error(), "2h0m0s behind") {
		t.Error(e)
	}
	e.Skew = -2 * time.Hour
	if !strings.Contains(e.Error(), "2h0m0s ahead") {
		t.Error(e)
	}
	e.Skew = time.Minute
	if strings.Contains(e.Error(), "clock") {
		t.Error(e)
	}
}
