package window

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/journal"
	"github.com/hubhop-iot/hubhop/internal/sample"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/internal/status"
	"github.com/hubhop-iot/hubhop/internal/virtual"
)

// measured is a device in virtual time with the metrics that hubhop run gives it.
type measured struct {
	t       *testing.T
	cloud   *sim.Sim
	dev     *device.Device
	metrics *status.Metrics

	mu     sync.Mutex
	events []journal.Event
}

// measure runs f beside a device that makes a sample each second, and then stops the device.
func measure(t *testing.T, f func(m *measured)) {
	t.Helper()
	dir := virtual.Dir(t)
	synctest.Test(t, func(t *testing.T) {
		wire, cloud := virtual.Cloud(t, nil)
		info := cloud.Info()
		shared := &device.Shared{Config: device.DefaultConfig(), Journal: new(journal.Journal), Agent: "test", Roots: cloud.CAPool(),
			DialContext: wire.DialContext, Rand: rand.New(rand.NewPCG(7, 7))}
		shared.Config.ProvisioningHost = info.ProvisioningHost
		o := sample.DefaultOptions()
		o.Interval, o.Model = time.Second, virtual.Model(t)
		app := sample.App(o)
		m := &measured{t: t, cloud: cloud}
		shared.Journal.Sink(func(e journal.Event) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.events = append(m.events, e)
		})
		options := Options{Version: "v1", Credential: "group-key", Methods: slices.Sorted(maps.Keys(app.Commands))}
		m.metrics = newMetrics(shared, options)
		m.dev = device.New(shared, device.Identity{DeviceID: "dev-1", IDScope: info.IDScope, StateDir: dir,
			Key: base64.StdEncoding.EncodeToString(cloud.DeviceKey("dev-1"))}, app)
		m.metrics.Show(shown{m.dev, options, nil}.reading)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- m.dev.Run(ctx) }()
		defer func() {
			stop()
			if err := <-ended; err != nil {
				t.Errorf("the device ended with %v", err)
			}
		}()
		f(m)
	})
}

// run lets virtual time pass.
func (m *measured) run(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (m *measured) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// scrape returns the values of all series.
func (m *measured) scrape() map[string]float64 {
	m.t.Helper()
	all := map[string]float64{}
	for line := range strings.Lines(m.text()) {
		if strings.HasPrefix(line, "hubhop_") {
			at := strings.LastIndexByte(line, ' ')
			value, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64)
			m.must(err)
			all[line[:at]] = value
		}
	}
	if len(all) < 35 {
		m.t.Fatalf("%d series", len(all))
	}
	return all
}

// text is a scrape as it comes.
func (m *measured) text() string {
	w := httptest.NewRecorder()
	m.metrics.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return w.Body.String()
}

// count returns how many events of a kind there were.
func (m *measured) count(kind journal.Kind) (n float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// outage takes both hubs and DPS away.
func (m *measured) outage() {
	for _, hub := range []string{"hub-a", "hub-b"} {
		m.must(m.cloud.FaultHub(hub, sim.Fault{Kind: sim.FaultKill}))
	}
	m.must(m.cloud.FaultDPS(sim.DPSFault{Kind: sim.DPSDown}))
}

func (m *measured) heal() {
	for _, hub := range []string{"hub-a", "hub-b"} {
		m.must(m.cloud.HealHub(hub))
	}
	m.must(m.cloud.HealDPS())
}

// TestScrapesOfAnOutageNeverHoldUpADevice scrapes every second of an hour without a cloud, and has
// readers that take nothing all the time. Each sample is made on its second all the same, and the
// device is back as soon as its cloud is.
func TestScrapesOfAnOutageNeverHoldUpADevice(t *testing.T) {
	measure(t, func(m *measured) {
		m.run(10 * time.Second)
		release := make(chan struct{})
		var readers sync.WaitGroup
		defer readers.Wait()
		defer close(release)
		for range 10 {
			readers.Go(func() {
				m.metrics.Handler().ServeHTTP(&stuckReader{release: release}, httptest.NewRequest(http.MethodGet, "/metrics", nil))
			})
		}
		synctest.Wait()
		m.outage()
		m.run(time.Second)
		before := m.scrape()
		for i := range 3600 {
			m.run(time.Second)
			began := time.Now()
			s := m.scrape()
			if took := time.Since(began); took != 0 {
				m.t.Fatalf("a scrape took %v", took)
			}
			made := s["hubhop_messages_made_total"] - before["hubhop_messages_made_total"]
			if made != float64(i+1) || s["hubhop_samples_skipped_total"] != 0 {
				m.t.Fatalf("%v samples in %d s, %v skipped", made, i+1, s["hubhop_samples_skipped_total"])
			}
			if s["hubhop_connected"] != 0 || s["hubhop_ready"] != 0 || s["hubhop_outage_seconds"] < float64(i) {
				m.t.Fatalf("after %d s connected %v, ready %v, outage %v s", i+1, s["hubhop_connected"], s["hubhop_ready"], s["hubhop_outage_seconds"])
			}
			if age := s["hubhop_backlog_oldest_age_seconds"]; age < float64(i) || age > float64(i+5) {
				m.t.Fatalf("after %d s the oldest sample is %v s old", i+1, age)
			}
		}
		m.heal()
		m.run(65 * time.Second)
		s := m.scrape()
		if s["hubhop_connected"] != 1 || s["hubhop_backlog_messages"] > 1 || s["hubhop_outage_seconds"] != 0 || s["hubhop_recovery_seconds_count"] != 1 ||
			s["hubhop_recovery_seconds_sum"] < 3600 || s["hubhop_recovery_seconds_sum"] > 3665 {
			m.t.Errorf("after the outage: connected %v, backlog %v, outage %v s, %v recoveries in %v s", s["hubhop_connected"], s["hubhop_backlog_messages"],
				s["hubhop_outage_seconds"], s["hubhop_recovery_seconds_count"], s["hubhop_recovery_seconds_sum"])
		}
	})
}

// stuckReader is a response that nobody reads until it is released.
type stuckReader struct{ release chan struct{} }

func (*stuckReader) Header() http.Header { return http.Header{} }
func (*stuckReader) WriteHeader(int)     {}
func (r *stuckReader) Write(b []byte) (int, error) {
	<-r.release
	return len(b), nil
}

// TestMetricsAgreeWithLedgerAndJournal takes a device through failovers, commands, properties and
// refusals, and compares its metrics with what the cloud and the journal say.
func TestMetricsAgreeWithLedgerAndJournal(t *testing.T) {
	measure(t, func(m *measured) {
		first := m.scrape()
		m.run(10 * time.Second)
		for _, call := range []string{"echo", "echo", "nobody"} {
			_, err := m.cloud.Method(m.t.Context(), "dev-1", call, json.RawMessage(`1`))
			m.must(err)
		}
		for _, name := range []string{"setAlarm", "nobody"} {
			_, err := m.cloud.SendC2D("dev-1", sim.C2D{Body: json.RawMessage(`"08:00:00"`), Properties: map[string]string{"method-name": name}})
			m.must(err)
		}
		m.must(m.cloud.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":5}`)))
		m.run(time.Second)
		m.must(m.cloud.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":"fast"}`)))
		m.run(time.Second)
		m.must(m.cloud.PatchDesired("dev-1", json.RawMessage(`{"fanSpeed":null}`)))
		m.run(5 * time.Second)
		m.must(m.cloud.FaultHub("hub-a", sim.Fault{Kind: sim.FaultKill}))
		m.run(20 * time.Second)
		m.must(m.cloud.HealHub("hub-a"))
		m.must(m.cloud.FaultHub("hub-b", sim.Fault{Kind: sim.FaultKill, Close: "fin"}))
		m.run(20 * time.Second)
		m.must(m.cloud.HealHub("hub-b"))
		m.must(m.cloud.Block("dev-1"))
		m.run(10 * time.Second)
		planned := 0
		for i := range 30 { // DPS refuses again and again, and so do the hubs
			m.run(time.Second)
			s := m.scrape()
			if s["hubhop_needs_person"] != 1 || s[`hubhop_state{state="refused"}`] != 1 || s[`hubhop_decision_info{action="back off DPS",rule="D11"}`] != 1 {
				m.t.Errorf("%d s after the block: needs_person %v, state refused %v, decision D11 %v", 10+i, s["hubhop_needs_person"],
					s[`hubhop_state{state="refused"}`], s[`hubhop_decision_info{action="back off DPS",rule="D11"}`])
			}
			if s["hubhop_next_attempt_timestamp_seconds"] != 0 {
				planned++
			}
		}
		if planned == 0 {
			m.t.Error("a blocked device never says when it tries again")
		}
		m.must(m.cloud.Unblock("dev-1"))
		m.run(90*time.Second + 500*time.Millisecond) // between two samples
		s, st, l := m.scrape(), m.dev.Status(), m.cloud.Ledger("dev-1", false)

		for series, want := range map[string]float64{
			"hubhop_connected":                                  1,
			"hubhop_messages_made_total":                        float64(l.Distinct),
			"hubhop_messages_acknowledged_total":                float64(l.Distinct),
			"hubhop_messages_repeated_total":                    float64(st.Repeated),
			"hubhop_backlog_messages":                           0,
			"hubhop_backlog_oldest_age_seconds":                 0,
			`hubhop_methods_total{name="echo",status="200"}`:    2,
			`hubhop_methods_total{name="nobody",status="404"}`:  1,
			"hubhop_method_seconds_count":                       3,
			`hubhop_c2d_total{result="handled"}`:                1,
			`hubhop_c2d_total{result="failed"}`:                 1,
			`hubhop_desired_total{result="applied"}`:            1,
			`hubhop_desired_total{result="failed"}`:             1,
			`hubhop_desired_total{result="removed"}`:            1,
			"sum of hubhop_failovers_total":                     float64(st.Failovers),
			"sum of hubhop_link_drops_total":                    m.count(journal.Lost),
			"sum of hubhop_decisions_total":                     m.count(journal.Decision),
			"hubhop_links_total":                                m.count(journal.Connected) + m.count(journal.Renewed),
			"hubhop_recovery_seconds_count":                     m.count(journal.Connected) - 1,
			`hubhop_dps_registrations_total{result="assigned"}`: m.count(journal.Assigned) + m.count(journal.AssignedAgain),
			`hubhop_events_total{kind="c2d"}`:                   m.count(journal.CloudMessage),
			`hubhop_device_info{device="dev-1"}`:                1,
			"hubhop_link_window_messages":                       float64(st.Window),
		} {
			got := s[series]
			if name, all := strings.CutPrefix(series, "sum of "); all {
				for one, value := range s {
					if strings.HasPrefix(one, name+"{") {
						got += value
					}
				}
			}
			if got != want {
				m.t.Errorf("%s is %v, not %v", series, got, want)
			}
		}
		if st.Failovers < 2 {
			m.t.Errorf("%d failovers", st.Failovers)
		}
		if n := s["hubhop_puback_seconds_count"] + s["hubhop_messages_repeated_total"]; n < float64(l.Distinct) {
			m.t.Errorf("%v PUBACKs were timed, %d messages have arrived", n, l.Distinct)
		}
		for _, series := range []string{"hubhop_outbox_append_seconds_count", "hubhop_outbox_fsync_seconds_count", `hubhop_dial_seconds_count{result="up"}`,
			`hubhop_dial_seconds_count{result="failed"}`, "hubhop_dps_assign_seconds_count", `hubhop_dps_registrations_total{result="DPS 400209"}`,
			"hubhop_outbox_max_bytes", "hubhop_link_rtt_seconds", `hubhop_build_info{goversion="` + runtime.Version() + `",version="v1"}`} {
			if _, there := s[series]; !there {
				m.t.Errorf("there is no %s", series)
			}
		}
		// What has appeared since the first scrape must be named by something from outside.
		for _, series := range slices.Sorted(maps.Keys(s)) {
			if _, there := first[series]; !there && !regexp.MustCompile(`^hubhop_(link_info|decision_info|device_info|credential_expiry_timestamp_seconds|methods_total\{name="nobody")`).MatchString(series) {
				m.t.Errorf("%s was not there from the first scrape", series)
			}
		}
	})
}
