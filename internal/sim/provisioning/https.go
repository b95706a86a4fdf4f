package provisioning

import (
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// routes adds DPS's device API to the HTTPS surface of its host.
func (p *Service) routes(mux *http.ServeMux) {
	wire.HandleWebSocket(mux, &wire.AMQPDesk{Hub: "dps", Log: p.log, Told: p.config.Told}, p.speakMQTT)
	mux.HandleFunc("PUT /{scope}/registrations/{id}/register", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, registerLimit))
		if err != nil {
			p.write(w, r, p.refusal(&dpsError{code: 400004, text: "The request is too large."}))
			return
		}
		a := p.register(claimOf(r), body)
		if a.status == http.StatusAccepted {
			w.Header().Set("Location", "https://"+r.Host+r.URL.EscapedPath())
		}
		p.write(w, r, a)
	})
	mux.HandleFunc("GET /{scope}/registrations/{id}/operations/{operation}", func(w http.ResponseWriter, r *http.Request) {
		p.write(w, r, p.poll(claimOf(r), r.PathValue("operation"))) // the Node SDK sends a body with this GET; nobody reads it
	})
	mux.HandleFunc("POST /{scope}/registrations/{id}", func(w http.ResponseWriter, r *http.Request) {
		p.write(w, r, p.lookup(claimOf(r)))
	})
}

func claimOf(r *http.Request) claim {
	return claim{
		idScope: r.PathValue("scope"), registrationID: r.PathValue("id"), version: r.URL.Query().Get("api-version"),
		token: strings.TrimSpace(r.Header.Get("Authorization")), chain: r.TLS.PeerCertificates,
		byAzureName: azure.IsDPSName(r.TLS.ServerName),
	}
}

func (p *Service) write(w http.ResponseWriter, r *http.Request, a answer) {
	if a.delay > 0 {
		t := time.NewTimer(a.delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.Context().Done():
			return
		}
	}
	if a.status == 0 {
		panic(http.ErrAbortHandler) // net/http's way to close the connection without an answer
	}
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
	h.Set("X-Ms-Request-Id", azure.NewGUID())
	if a.retryAfter != "" {
		h.Set("Retry-After", a.retryAfter)
	}
	if a.hangUp {
		h.Set("Connection", "close")
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(azure.EncodeJSON(a.body))
}
