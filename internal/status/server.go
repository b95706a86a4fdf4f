package status

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/hubhop-iot/hubhop/internal/journal"
)

// Bounds of what a client may cost.
const (
	headerLimit = 5 * time.Second  // to send the header of a request
	readLimit   = 10 * time.Second // to send a whole request
	writeLimit  = 20 * time.Second // to take an answer, or the next bytes of a stream
	idleLimit   = time.Minute      // between two requests on a connection
	closeLimit  = time.Second      // for the requests under way, when the server ends

	maxHeader  = 8 << 10 // bytes of a header
	maxBody    = 4 << 10 // of a request
	maxConns   = 256     // connections of one reach that have not become a stream
	maxStreams = 1024    // readers of GET /events of one reach
)

// Server serves the status of one device. Its fields must not change after the first call.
type Server struct {
	Shown   Shown
	Events  *Events      // a sink of the device's journal
	Metrics http.Handler // GET /metrics; nil: there are none
	Page    http.Handler // GET / and what no other route has; nil: there is none

	// Token opens the routes of an address that is not a loopback one. Without it, such an address
	// has only /healthz, /readyz and /metrics.
	Token string

	// SetLevel changes the level of the log until a span is over, for ever if it is 0. It is called
	// for PUT /loglevel. An error is about the level, and says which there are. nil: there is no
	// such route.
	SetLevel func(level string, span time.Duration) error

	// Report is told of troubles, in sentences for a log; nil: nobody is.
	Report func(text string)

	mu     sync.Mutex
	places [OnNetwork + 1]places // by reach: whoever fills those of TCP leaves the socket alone
}

// places are the connections of one reach.
type places struct {
	conns   int // that have not become a stream
	streams int
}

// Reach says from where a listener can be reached, and so what it serves to whom.
type Reach int

// The reaches.
const (
	OnSocket  Reach = iota // the control socket, which only this user can open
	OnMachine              // a loopback address: everybody on this machine, and their browsers
	OnNetwork              // any other address
)

// ReachOf returns the reach of a TCP address. A name that is not localhost counts as the network.
func ReachOf(host string) Reach {
	if isLoopback(host) {
		return OnMachine
	}
	return OnNetwork
}

func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// open are the routes that an address of the network has without a token.
var open = map[string]bool{"/healthz": true, "/readyz": true, "/metrics": true}

// Handler returns all routes for listeners of one reach.
func (s *Server) Handler(reach Reach) http.Handler {
	routes := http.NewServeMux()
	get := func(path string, serve http.HandlerFunc) {
		routes.HandleFunc("GET "+path, serve)
	}
	get("/healthz", s.health)
	get("/readyz", s.ready)
	get("/status", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, s.Shown.View()) })
	if s.Events != nil {
		get("/events", func(w http.ResponseWriter, r *http.Request) { s.stream(w, r, reach) })
	}
	if s.Metrics != nil {
		routes.Handle("GET /metrics", s.Metrics)
	}
	if s.Page != nil {
		routes.Handle("GET /", s.Page)
	}
	if s.SetLevel != nil {
		routes.HandleFunc("PUT /loglevel", func(w http.ResponseWriter, r *http.Request) {
			if reach != OnSocket {
				refuse(w, http.StatusForbidden, "the log level can be changed on the control socket only")
				return
			}
			s.level(w, r)
		})
	}
	return s.guard(reach, routes)
}

// guard lets through only what may come from where it comes.
func (s *Server) guard(reach Reach, to http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				s.report(fmt.Sprintf("this is a bug in hubhop: the status server failed at %s: %v", clean(r.URL.Path), p))
				refuse(w, http.StatusInternalServerError, "a bug in hubhop: see the log")
			}
		}()
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		switch reach {
		case OnMachine:
			if why := foreign(r); why != "" {
				refuse(w, http.StatusForbidden, why)
				return
			}
		case OnNetwork:
			switch {
			case open[r.URL.Path] && r.Method == http.MethodGet:
			case s.Token == "":
				refuse(w, http.StatusForbidden, "without --http-token-file this address has only /healthz, /readyz and /metrics")
				return
			case !s.knows(r.Header.Get("Authorization")):
				h.Set("WWW-Authenticate", `Bearer realm="hubhop"`)
				refuse(w, http.StatusUnauthorized, "give the token of --http-token-file: Authorization: Bearer TOKEN")
				return
			}
		default: // the modes of the socket have decided
		}
		to.ServeHTTP(w, r)
	})
}

// foreign says why a request on a loopback address is refused; empty if it is not. A page of a
// foreign site can make a browser send requests to this machine. If it does so by its own name,
// which suddenly means 127.0.0.1 (DNS rebinding), Host has that name.
func foreign(r *http.Request) string {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	} else if inner, bracketed := strings.CutPrefix(host, "["); bracketed {
		if host, bracketed = strings.CutSuffix(inner, "]"); !bracketed {
			host = ""
		}
	}
	if !isLoopback(host) {
		return "the request names a foreign host; use localhost or 127.0.0.1"
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		if from, err := url.Parse(origin); err != nil || !strings.EqualFold(from.Host, r.Host) || from.Scheme != "http" {
			return "the request comes from a page of another site"
		}
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" && r.Header.Get("Sec-Fetch-Mode") != "navigate" {
		return "the request comes from a page of another site"
	}
	return ""
}

// knows compares a token. Hashes are compared, so that neither the content nor the length of the
// right one shows in the time that it takes.
func (s *Server) knows(authorization string) bool {
	scheme, token, _ := strings.Cut(authorization, " ")
	given, right := sha256.Sum256([]byte(strings.TrimSpace(token))), sha256.Sum256([]byte(s.Token))
	return subtle.ConstantTimeCompare(given[:], right[:]) == 1 && strings.EqualFold(scheme, "Bearer")
}

// health is GET /healthz.
func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	type loop struct {
		Loop       string  `json:"loop"`
		AgeSeconds float64 `json:"ageSeconds"`
	}
	now, all := time.Now(), s.Shown.Beats()
	body := struct {
		Healthy bool   `json:"healthy"`
		Still   string `json:"still,omitempty"` // the loop that stands still
		Loops   []loop `json:"loops"`
	}{Healthy: true, Loops: make([]loop, 0, len(all))}
	for _, b := range all {
		body.Loops = append(body.Loops, loop{b.Loop, b.Age(now).Seconds()})
	}
	code := http.StatusOK
	if still, found := Still(all, now); found {
		code, body.Healthy, body.Still = http.StatusServiceUnavailable, false, still.Loop
	}
	reply(w, code, body)
}

// ready is GET /readyz.
func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	v := s.Shown.View()
	body := struct {
		Ready   bool       `json:"ready"`
		State   State      `json:"state"`
		Hub     string     `json:"hub,omitempty"`
		Why     *Why       `json:"why,omitempty"`
		NextTry *time.Time `json:"nextTry,omitempty"`
	}{Ready: v.State.Linked(), State: v.State, Hub: v.Hub}
	code := http.StatusOK
	if !body.Ready {
		code, body.Why, body.NextTry = http.StatusServiceUnavailable, v.Why, v.NextTry
	}
	reply(w, code, body)
}

// level is PUT /loglevel.
func (s *Server) level(w http.ResponseWriter, r *http.Request) {
	var want struct {
		Level string `json:"level"`
		For   string `json:"for"`
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&want); err != nil {
		refuse(w, http.StatusBadRequest, `the body must be like {"level":"debug","for":"10m"}`)
		return
	}
	span, err := time.ParseDuration(cmp.Or(want.For, "0s"))
	if err != nil || span < 0 || span == 0 && want.For != "" {
		refuse(w, http.StatusBadRequest, `"for" must be a duration, such as 10m; without it the level stays`)
		return
	}
	if err := s.SetLevel(want.Level, span); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	reply(w, http.StatusOK, want)
}

// reply writes a JSON document.
func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	e := json.NewEncoder(w)
	_ = e.Encode(v) // the client is gone
}

// refuse says what is wrong with a request.
func refuse(w http.ResponseWriter, code int, why string) {
	reply(w, code, struct {
		Error string `json:"error"`
	}{why})
}

// clean makes a text of a client fit for a log.
func clean(s string) string { return fmt.Sprintf("%q", journal.Clip(s, maxName)) }

func (s *Server) report(text string) {
	if s.Report != nil {
		s.Report(text)
	}
}

// Serve serves a listener until ctx ends, and closes it. It returns when its connections have
// ended, those that have become streams too. If the listener fails before that, its connections are
// ended at once, and the error names the address. Several listeners may be served at once.
func (s *Server) Serve(ctx context.Context, l net.Listener, reach Reach) error {
	streaming, endStreams := context.WithCancel(ctx)
	defer endStreams()
	b := &bounded{Listener: l, s: s, reach: reach, ctx: streaming}
	server := &http.Server{
		Handler:           s.Handler(reach),
		ReadHeaderTimeout: headerLimit, ReadTimeout: readLimit, WriteTimeout: writeLimit, IdleTimeout: idleLimit,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       log.New(io.Discard, "", 0), // what clients do wrong is no news of the device
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
		defer cancel()
		if server.Shutdown(soon) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(b)
	if stop() { // the listener has failed, or was closed
		_ = server.Close()
	} else {
		<-ended
	}
	endStreams()
	b.streams.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("%s takes no more connections: %w", l.Addr(), err)
}

// bounded is a listener that closes connections beyond maxConns at once: so nobody can make the
// device run out of files.
type bounded struct {
	net.Listener
	s       *Server
	reach   Reach
	ctx     context.Context // of Serve; the streams end with it
	streams sync.WaitGroup
}

func (b *bounded) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		b.s.mu.Lock()
		taken := &b.s.places[b.reach].conns
		full := *taken >= maxConns
		if !full {
			*taken++
		}
		b.s.mu.Unlock()
		if !full {
			return &place{Conn: conn, of: b}, nil
		}
		_ = conn.Close()
	}
}

// place is a connection that counts until it is closed or becomes a stream.
type place struct {
	net.Conn
	of   *bounded
	left sync.Once
}

func (p *place) Close() error {
	p.leave()
	return p.Conn.Close()
}

func (p *place) leave() {
	p.left.Do(func() {
		p.of.s.mu.Lock()
		defer p.of.s.mu.Unlock()
		p.of.s.places[p.of.reach].conns--
	})
}
