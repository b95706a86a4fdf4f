package provisioning

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// dpsPolicy is the name of the one shared access policy of DPS's service API. It has all rights.
const dpsPolicy = "provisioningserviceowner"

// ConnectionString returns what a client of the service API is configured with.
func (p *Service) ConnectionString() string {
	host := p.Front.Endpoint.Told()
	if name, port, err := net.SplitHostPort(host); err == nil && port == "443" {
		host = name
	}
	return "HostName=" + host + ";SharedAccessKeyName=" + dpsPolicy + ";SharedAccessKey=" + base64.StdEncoding.EncodeToString(p.key[0])
}

// knownAs reports whether a name, with or without a port, means this DPS.
func (p *Service) knownAs(name string) bool {
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	name = strings.ToLower(name)
	own := []string{wire.HostIn(p.Front.Endpoint.Address()), strings.ToLower(wire.HostIn(p.Front.Endpoint.Told())), "localhost", "dps.sim.local"}
	return slices.Contains(own, name) || azure.IsDPSName(name)
}

// authorize checks the token of a request to the service API. Its resource is the host, or a prefix
// of the requested path that consists of whole segments.
func (p *Service) authorize(r *http.Request) error {
	token, err := azure.ParseSAS(strings.TrimSpace(r.Header.Get("Authorization")))
	if err != nil {
		return &dpsError{code: 401000, text: "Unauthorized"}
	}
	host, path, _ := strings.Cut(strings.TrimSuffix(token.Resource, "/"), "/")
	switch {
	case !p.knownAs(host),
		path != "" && !strings.HasPrefix(strings.ToLower(r.URL.Path)+"/", "/"+strings.ToLower(path)+"/"),
		token.Policy != dpsPolicy,
		!token.SignedBy(p.key[:]...):
		return &dpsError{code: 401002, text: "Unauthorized"}
	case !token.Expires.After(p.registry.now()):
		return &dpsError{code: 401002, text: "Token expired."}
	}
	return nil
}

// serviceLimit is the size of the largest body of a request to the service API, in bytes.
const serviceLimit = 1 << 20

// serviceOr serves the paths of DPS's service API, and leaves all other paths to next.
func (p *Service) serviceOr(next http.Handler) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(w http.ResponseWriter, r *http.Request, body []byte) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			v, err := p.serve(w, r, f)
			p.writeService(w, v, err)
		})
	}
	p.enrollmentRoutes(handle, "/enrollments", false)
	p.enrollmentRoutes(handle, "/enrollmentGroups", true)
	handle("POST /enrollments", p.bulk)
	handle("GET /registrations/{id}", func(_ http.ResponseWriter, r *http.Request, _ []byte) (any, error) {
		state, ok := p.registry.lookup(r.PathValue("id"))
		if !ok {
			return nil, errNoRegistration
		}
		return state, nil
	})
	handle("DELETE /registrations/{id}", func(_ http.ResponseWriter, r *http.Request, _ []byte) (any, error) {
		return nil, p.registry.deleteRegistration(r.PathValue("id"), r.Header.Get("If-Match"))
	})
	handle("POST /registrations/{id}/query", func(w http.ResponseWriter, r *http.Request, _ []byte) (any, error) {
		states, err := p.registry.registrationsOf(r.PathValue("id"))
		if err != nil {
			return nil, err
		}
		return page(w, r, "DeviceRegistration", states, func(s registrationState) string { return strings.ToLower(s.RegistrationID) })
	})
	handle("/", func(_ http.ResponseWriter, r *http.Request, _ []byte) (any, error) {
		return nil, &dpsError{code: 404000, text: "There is no " + r.Method + " " + r.URL.Path + " here."}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		first, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		for _, own := range []string{"enrollments", "enrollmentGroups", "registrations"} {
			if strings.EqualFold(first, own) { // the Node.js SDK asks for enrollmentgroups too, and ends a list with a slash
				r.URL.Path = strings.TrimSuffix("/"+own+"/"+rest, "/")
				mux.ServeHTTP(w, r)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func (p *Service) serve(w http.ResponseWriter, r *http.Request, f func(http.ResponseWriter, *http.Request, []byte) (any, error)) (any, error) {
	if err := p.authorize(r); err != nil {
		return nil, err
	}
	if !validVersion(r.URL.Query().Get("api-version")) {
		return nil, &dpsError{code: 400004, text: "The api-version is missing or invalid."}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, serviceLimit))
	if err != nil {
		return nil, &dpsError{code: 400004, text: "The request body cannot be read or is too large."}
	}
	return f(w, r, body)
}

func (p *Service) writeService(w http.ResponseWriter, v any, err error) {
	if err != nil {
		v = p.refusal(err).body
	}
	w.Header().Set("X-Ms-Request-Id", azure.NewGUID())
	switch e := v.(type) {
	case nil:
		w.WriteHeader(http.StatusNoContent)
		return
	case azure.ErrorDocument:
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(e.ErrorCode / 1000)
	default:
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
	}
	_, _ = w.Write(azure.EncodeJSON(v)) //nolint:gosec // it is JSON, and says so
}

func (p *Service) enrollmentRoutes(handle func(string, func(http.ResponseWriter, *http.Request, []byte) (any, error)), path string, group bool) {
	find := func(r *http.Request) (*enrollment, error) {
		p.registry.mu.Lock()
		defer p.registry.mu.Unlock()
		if e := p.registry.list(group)[strings.ToLower(r.PathValue("id"))]; e != nil {
			return p.registry.withState(e), nil
		}
		return nil, errNoEnrollment
	}
	handle("GET "+path+"/{id}", func(_ http.ResponseWriter, r *http.Request, _ []byte) (any, error) {
		e, err := find(r)
		if err != nil {
			return nil, err
		}
		return e.public(), nil
	})
	handle("PUT "+path+"/{id}", func(_ http.ResponseWriter, r *http.Request, body []byte) (any, error) {
		e, err := decodeEnrollmentFor(body, r.PathValue("id"), group)
		if err != nil {
			return nil, err
		}
		if e, err = p.registry.put(e, r.Header.Get("If-Match"), false); err != nil {
			return nil, err
		}
		return e, nil
	})
	handle("DELETE "+path+"/{id}", func(_ http.ResponseWriter, r *http.Request, _ []byte) (any, error) {
		return nil, p.registry.remove(group, r.PathValue("id"), r.Header.Get("If-Match"))
	})
	handle("POST "+path+"/{id}/attestationmechanism", func(_ http.ResponseWriter, r *http.Request, _ []byte) (any, error) {
		e, err := find(r)
		if err != nil {
			return nil, err
		}
		return e.Attestation, nil
	})
	handle("POST "+path+"/query", func(w http.ResponseWriter, r *http.Request, body []byte) (any, error) {
		if err := checkQuery(body); err != nil {
			return nil, err
		}
		kind := "Enrollment"
		if group {
			kind = "EnrollmentGroup"
		}
		return page(w, r, kind, p.registry.enrolled(group), func(e *enrollment) string { return strings.ToLower(e.id()) })
	})
}

// decodeEnrollmentFor reads the body of a request whose path has an id. The body may leave the id
// out, but must not have another one.
func decodeEnrollmentFor(body []byte, id string, group bool) (*enrollment, error) {
	e := &enrollment{}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(e); err != nil {
		return nil, badEnrollment("The request body is malformed: %s.", azure.JSONFault(err, nil))
	}
	own, other := &e.RegistrationID, &e.EnrollmentGroupID
	if group {
		own, other = other, own
	}
	if *own != "" && !strings.EqualFold(*own, id) {
		return nil, badEnrollment("The id of the body is another one than that of the request.")
	}
	*own, *other = cmp.Or(*own, id), ""
	return e, nil
}

// checkQuery accepts a query for everything. Node's samples ask for "*" alone, and the Azure CLI
// wraps its query in the text of a Python dictionary. So a query needs only a star or a select.
func checkQuery(body []byte) error {
	var q struct {
		Query string `json:"query"`
	}
	text := ""
	if json.Unmarshal(body, &q) == nil {
		text = strings.ToLower(q.Query)
	}
	if text != "*" && !strings.Contains(text, "select") {
		return &dpsError{code: 400004, text: "The query must be SELECT *."}
	}
	if strings.Contains(text, "where") {
		return &dpsError{code: 400004, text: "A condition in a query is not supported here: ask with SELECT *."}
	}
	return nil
}

// dpsPageLimit is the number of items of the largest page, and of a page without a requested size.
const dpsPageLimit = 1000

// page returns the part of a result that a request asks for: so many items after the one that its
// continuation names. It sets the headers of the answer.
func page[T any](w http.ResponseWriter, r *http.Request, kind string, all []T, key func(T) string) ([]T, error) {
	size := dpsPageLimit
	if text := r.Header.Get("X-Ms-Max-Item-Count"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n == 0 || n < -1 {
			return nil, &dpsError{code: 400004, text: "x-ms-max-item-count must be a positive number."}
		}
		if n > 0 {
			size = min(n, dpsPageLimit)
		}
	}
	slices.SortFunc(all, func(a, b T) int { return cmp.Compare(key(a), key(b)) })
	if text := r.Header.Get("X-Ms-Continuation"); text != "" {
		after, err := base64.URLEncoding.DecodeString(text)
		if err != nil {
			return nil, &dpsError{code: 400004, text: "x-ms-continuation is not one of ours."}
		}
		at, found := slices.BinarySearchFunc(all, string(after), func(v T, k string) int { return cmp.Compare(key(v), k) })
		if found {
			at++
		}
		all = all[at:]
	}
	if len(all) > size {
		all = all[:size]
		w.Header().Set("X-Ms-Continuation", base64.URLEncoding.EncodeToString([]byte(key(all[size-1]))))
	}
	w.Header().Set("X-Ms-Item-Type", kind)
	w.Header().Set("X-Ms-Max-Item-Count", strconv.Itoa(size))
	return all, nil
}

// dpsBulkLimit is how many enrollments a bulk operation may have.
const dpsBulkLimit = 10

type dpsBulkError struct {
	RegistrationID string `json:"registrationId"`
	ErrorCode      int    `json:"errorCode"`
	ErrorStatus    string `json:"errorStatus"`
}

// bulk does the same to several individual enrollments. Its answer names those that failed; the
// others are done.
func (p *Service) bulk(_ http.ResponseWriter, _ *http.Request, body []byte) (any, error) {
	var b struct {
		Mode        string            `json:"mode"`
		Enrollments []json.RawMessage `json:"enrollments"`
	}
	if json.Unmarshal(body, &b) != nil || len(b.Enrollments) == 0 || len(b.Enrollments) > dpsBulkLimit {
		return nil, &dpsError{code: 400004, text: "A bulk operation needs a mode and 1 to 10 enrollments."}
	}
	var act func(e *enrollment) error
	put := func(e *enrollment, ifMatch string) error {
		_, err := p.registry.put(e, ifMatch, false)
		return err
	}
	switch b.Mode {
	case "create":
		act = func(e *enrollment) error { return put(e, "") }
	case "update":
		act = func(e *enrollment) error { return put(e, "*") }
	case "updateIfMatchETag":
		act = func(e *enrollment) error { return put(e, cmp.Or(e.Etag, `""`)) }
	case "delete":
		act = func(e *enrollment) error { return p.registry.remove(false, e.RegistrationID, e.Etag) }
	default:
		return nil, &dpsError{code: 400004, text: "The mode of a bulk operation is create, update, updateIfMatchETag or delete."}
	}
	failed := []dpsBulkError{}
	for _, doc := range b.Enrollments {
		e, err := decodeEnrollment(doc)
		id := ""
		if err == nil {
			if id = e.RegistrationID; e.group() {
				err = badEnrollment("A bulk operation takes individual enrollments only.")
			} else {
				err = act(e)
			}
		}
		if err != nil {
			refused, _ := p.refusal(err).body.(azure.ErrorDocument)
			failed = append(failed, dpsBulkError{id, refused.ErrorCode, refused.Message})
		}
	}
	return map[string]any{"isSuccessful": len(failed) == 0, "errors": failed}, nil
}
