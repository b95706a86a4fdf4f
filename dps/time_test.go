package dps

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubhop-iot/hubhop/internal/memnet"
)

// timeServer is a server with a chain of a root, an authority and a leaf, that answers any request
// with a Date.
type timeServer struct {
	leaf, between [2]time.Duration // validity, from now
	name          string
	strange       bool // its root is not the client's
	date          time.Duration
	noDate        bool

	mu       sync.Mutex
	requests []*http.Request
}

func certificate(t *testing.T, template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// ask runs a client that believes it is off from now, and has secrets, against a server.
func (s *timeServer) ask(t *testing.T, off time.Duration) (date time.Time, err error) {
	t.Helper()
	now := time.Now()
	span := func(v [2]time.Duration) (time.Time, time.Time) { return now.Add(v[0]), now.Add(v[1]) }
	root := &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Unix(0, 0), NotAfter: now.AddDate(50, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	rootCert, rootKey := certificate(t, root, nil, nil)
	between := &x509.Certificate{Subject: pkix.Name{CommonName: "between"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	between.NotBefore, between.NotAfter = span(s.between)
	betweenCert, betweenKey := certificate(t, between, rootCert, rootKey)
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "leaf"}, DNSNames: []string{s.name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	leaf.NotBefore, leaf.NotAfter = span(s.leaf)
	leafCert, leafKey := certificate(t, leaf, betweenCert, betweenKey)
	pool := x509.NewCertPool()
	if !s.strange {
		pool.AddCert(rootCert)
	}

	n := memnet.New()
	l, err := n.Listen("tcp", "dps.test:443")
	if err != nil {
		t.Fatal(err)
	}
	conf := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leafCert.Raw, betweenCert.Raw}, PrivateKey: leafKey}}, ClientAuth: tls.RequestClientCert}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r)
		s.mu.Unlock()
		w.Header().Set("Date", time.Now().Add(s.date).UTC().Format(http.TimeFormat))
		if s.noDate {
			w.Header()["Date"] = nil
		}
		w.WriteHeader(http.StatusNotFound)
	})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(tls.NewListener(l, conf)) })
	defer wg.Wait()
	defer func() { _ = server.Close() }()

	mine, mineKey := certificate(t, &x509.Certificate{Subject: pkix.Name{CommonName: "dev-001"}, NotBefore: now, NotAfter: now.Add(time.Hour)}, nil, nil)
	c := testClient()
	c.Host, c.DialContext = "dps.test", n.DialContext
	c.Now = func() time.Time { return time.Now().Add(off) }
	c.TLS = &tls.Config{RootCAs: pool, Time: c.Now, ClientSessionCache: tls.NewLRUClientSessionCache(4),
		Certificates: []tls.Certificate{{Certificate: [][]byte{mine.Raw}, PrivateKey: mineKey}}}
	return c.AskTime(t.Context())
}

func TestTimeIsBelievedOnlyIfTheWholeChainIsGoodAtIt(t *testing.T) {
	const day = 24 * time.Hour
	good := [2]time.Duration{-90 * day, 90 * day}
	for name, v := range map[string]struct {
		server *timeServer
		off    time.Duration
		want   string // in the error; "" is an answer
	}{
		"the clock is right":                      {&timeServer{}, 0, ""},
		"the clock is fast, inside the validity":  {&timeServer{}, 30 * day, ""},
		"the clock is slow, inside the validity":  {&timeServer{}, -30 * day, ""},
		"1970":                                    {&timeServer{}, -9000 * day, ""},
		"before the authority, not the leaf":      {&timeServer{between: [2]time.Duration{-10 * day, 90 * day}}, -30 * day, ""},
		"after the leaf: perhaps it is stolen":    {&timeServer{}, 91 * day, "expired"},
		"a leaf that is over, and says so":        {&timeServer{leaf: [2]time.Duration{-90 * day, -60 * day}, date: -70 * day}, 0, "expired"},
		"1970, and a Date after the leaf":         {&timeServer{date: 91 * day}, -9000 * day, "expired"},
		"1970, and a Date before the leaf":        {&timeServer{date: -91 * day}, -9000 * day, "not yet valid"},
		"1970, and a Date before the authority":   {&timeServer{between: [2]time.Duration{-10 * day, 90 * day}, date: -20 * day}, -9000 * day, "not yet valid"},
		"1970, and the leaf outlives authority":   {&timeServer{between: [2]time.Duration{-90 * day, -10 * day}}, -9000 * day, "expired"},
		"a Date after the leaf":                   {&timeServer{date: 91 * day}, 0, "expired"},
		"another server":                          {&timeServer{name: "evil.test"}, 0, "valid for evil.test"},
		"1970, and another server":                {&timeServer{name: "evil.test"}, -9000 * day, "not yet valid"},
		"another root":                            {&timeServer{strange: true}, 0, "unknown authority"},
		"1970, and another root":                  {&timeServer{strange: true}, -9000 * day, "not yet valid"},
		"an answer without a Date":                {&timeServer{noDate: true}, 0, "without a Date"},
		"an answer without a Date to one of 1970": {&timeServer{noDate: true}, -9000 * day, "without a Date"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := v.server
				if s.leaf == [2]time.Duration{} {
					s.leaf = good
				}
				if s.between == [2]time.Duration{} {
					s.between = good
				}
				if s.name == "" {
					s.name = "dps.test"
				}
				date, err := s.ask(t, v.off)
				switch {
				case v.want == "" && (err != nil || time.Until(date).Abs() > time.Second):
					t.Errorf("%v, %v", date, err)
				case v.want != "" && (err == nil || !strings.Contains(err.Error(), v.want)):
					t.Errorf("%v, %v: not %q", date, err, v.want)
				}
				if v.want == "" && len(s.requests) != 1 {
					t.Errorf("%d requests", len(s.requests))
				}
				for _, r := range s.requests { // whoever is there, it does not learn who asks
					if len(r.TLS.PeerCertificates) > 0 || r.TLS.DidResume || r.URL.String() != "/" || len(r.Header) > 1 || r.Header.Get("Connection") != "close" {
						t.Errorf("it carried %v %v %v", r.URL, r.Header, r.TLS.PeerCertificates)
					}
				}
			})
		})
	}
}

// TestDateOfAnAnswerIsToldIfItsCertificateIsGoodAtIt: that of any answer is told, a refusal's too,
// unless the certificate is not good then.
func TestDateOfAnAnswerIsToldIfItsCertificateIsGoodAtIt(t *testing.T) {
	for ahead, told := range map[time.Duration]bool{0: true, time.Hour: true, 400 * 24 * time.Hour: false, -400 * 24 * time.Hour: false} {
		bubble(t, HTTPS, func(t *testing.T, s *scripted) {
			s.replies = []reply{{401, "", `{"errorCode":401000}`}}
			s.date = time.Now().Add(ahead)
			var heard []time.Time
			s.client.Heard = func(date time.Time) { heard = append(heard, date) }
			_, err := s.client.Register(t.Context(), Request{})
			if e, ok := errors.AsType[*Error](err); !ok || e.Status != 401 || (e.Skew-ahead).Abs() > time.Second {
				t.Error(err)
			}
			if (len(heard) == 1) != told || told && !heard[0].Equal(s.date) {
				t.Errorf("%v ahead: heard %v", ahead, heard)
			}
		})
	}
}

func TestTimeIsAskedOverHTTPS(t *testing.T) {
	for _, v := range []struct {
		host      string
		transport Transport
		want      string
	}{
		{"h", MQTT, "h:443"}, {"h:8883", MQTT, "h:443"}, {"h", HTTPS, "h:443"}, {"h:8443", HTTPS, "h:8443"}, {"", "", DefaultHost + ":443"}, {"::1", MQTT, "[::1]:443"},
	} {
		if got := (&Client{Host: v.host, Transport: v.transport}).TimeAddress(); got != v.want {
			t.Errorf("%s over %s: %s", v.host, v.transport, got)
		}
	}
}
