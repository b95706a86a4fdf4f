package status

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// processFor is how old the figures of the process (process_…) may be.
const processFor = 5 * time.Second

// sharedFor is how long the answer to a scrape is given to further ones. So however many ask, they
// cost the device no more than two scrapes a second in each of the two formats.
const sharedFor = 500 * time.Millisecond

// answers gives the same answer to scrapes that come shortly one after the other. A reader that is
// slow gets bytes that exist already, so it holds up nobody.
type answers struct {
	make http.Handler

	mu  sync.Mutex
	all [2]*answer // in the text format, and as OpenMetrics; nil: nobody has asked yet
}

// answer is a scrape's answer. It is not changed once it is made.
type answer struct {
	at     time.Time
	status int
	header http.Header
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) { a.status = status }

func (a *answer) Write(b []byte) (int, error) { return a.body.Write(b) }

// ServeHTTP answers as OpenMetrics if the client takes that, else in the text format.
func (s *answers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	format := 0
	if strings.Contains(r.Header.Get("Accept"), "application/openmetrics-text") {
		format = 1
	}
	a := s.of(format, r)
	header := w.Header()
	header.Set("Content-Type", a.header.Get("Content-Type"))
	header.Set("Content-Length", strconv.Itoa(a.body.Len()))
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body.Bytes()) // the reader may have gone
}

// of returns the answer in a format.
func (s *answers) of(format int, r *http.Request) *answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	before := s.all[format]
	if before != nil && now.Sub(before.at) < sharedFor && before.status == http.StatusOK {
		return before
	}
	fresh := &answer{at: now, status: http.StatusOK, header: http.Header{}}
	if before != nil {
		fresh.body.Grow(before.body.Len() + before.body.Len()/16)
	}
	ask := r.Clone(r.Context())
	ask.Header = http.Header{"Accept": {[]string{"text/plain", "application/openmetrics-text;version=1.0.0"}[format]}}
	s.make.ServeHTTP(fresh, ask)
	s.all[format] = fresh
	return fresh
}

// remembered is a collector of figures that cost much to read. It reads them anew only after a
// while: those of the process are in five files of the system, and to read them costs more than
// all other figures of a scrape.
type remembered struct {
	prometheus.Collector
	span time.Duration

	mu   sync.Mutex
	at   time.Time // of the reading; zero: there was none
	kept []prometheus.Metric
}

// Collect gives the figures of the last reading, if that is not too old.
func (r *remembered) Collect(to chan<- prometheus.Metric) {
	for _, m := range r.read() {
		to <- m
	}
}

func (r *remembered) read() []prometheus.Metric {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if !r.at.IsZero() && now.Sub(r.at) < r.span {
		return r.kept
	}
	fresh := make(chan prometheus.Metric)
	go func() {
		defer close(fresh)
		r.Collector.Collect(fresh)
	}()
	r.at, r.kept = now, nil
	for m := range fresh {
		r.kept = append(r.kept, m)
	}
	return r.kept
}
