package sim

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/ledger"
	"github.com/hubhop-iot/hubhop/internal/sim/store"
)

// central is IoT Central's REST surface: the failover here, the devices in central_rest.go. It decides nothing: the registry does.
type central struct {
	registry  *registry
	ledger    *ledger.Ledger
	now       func() time.Time
	appID     string
	token     string    // accepted verbatim
	templates templates // those that the application was given
	commands  commandBook
}

// centralOptions are what IoT Central is given.
type centralOptions struct {
	Template []byte // device templates: a DTDL interface or a list of them; nil means none
	Registry *registry
	Ledger   *ledger.Ledger   // the newest telemetry comes from there
	Store    *store.Store     // nil without a state directory
	Now      func() time.Time // the cloud's clock
}

// newCentral returns an application. Its id and its token are those of the state directory, if it has
// them.
func newCentral(o centralOptions) (*central, error) {
	kept, now := o.Store, o.Now()
	c := &central{registry: o.Registry, ledger: o.Ledger, now: o.Now, appID: kept.Secret("central/app"), token: kept.Secret("central/token")}
	if o.Template != nil {
		var err error
		if c.templates, err = parseTemplates(o.Template); err != nil {
			return nil, err
		}
	}
	if c.appID == "" || c.token == "" {
		sig := make([]byte, sha256.Size)
		_, _ = rand.Read(sig) // never fails since Go 1.24
		c.appID = azure.NewGUID()
		c.token = fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&skn=hubhop&se=%d", c.appID,
			azure.Escape(base64.StdEncoding.EncodeToString(sig)), now.AddDate(10, 0, 0).UnixMilli())
		kept.SetSecret("central/app", c.appID)
		kept.SetSecret("central/token", c.token)
	}
	return c, nil
}

// centralBodyLimit is the size of the largest body of a request, in bytes.
const centralBodyLimit = 1 << 20

// routes adds IoT Central's API to the HTTPS surface of its host.
func (c *central) routes(mux *http.ServeMux) {
	handle := func(pattern string, f func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, centralBodyLimit)
			if err := c.allow(r); err != nil {
				c.write(w, nil, err)
				return
			}
			v, err := f(r)
			c.write(w, v, err)
		})
	}
	handle("POST /system/iothub/devices/{id}/manual-failover", c.manualFailover)
	handle("POST /system/iothub/devices/{id}/manual-failback", c.manualFailback)
	c.routesREST(handle)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		c.write(w, nil, azure.Errorf(404, "NotFound", "There is no %s %s here.", r.Method, r.URL.Path))
	})
}

// allow checks the token of a request.
func (c *central) allow(r *http.Request) error {
	text := r.Header.Get("Authorization")
	switch {
	case subtle.ConstantTimeCompare([]byte(text), []byte(c.token)) == 1:
		return nil
	case strings.HasPrefix(text, "Bearer "):
		return azure.Errorf(401, "Unauthorized", "This application is simulated and knows no Azure users: use the API token of sim.json, as it stands there.")
	}
	return azure.Errorf(401, "Unauthorized", "The authorization token is not valid for this application.")
}

// decodeLenient reads a JSON object as IoT Central does: fields it does not know are ignored, and so is an empty body.
func decodeLenient(r *http.Request, into any) error {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return azure.Errorf(400, "BadRequest", "The body cannot be read.")
	}
	if len(b) > 0 && json.Unmarshal(b, into) != nil {
		return azure.Errorf(400, "BadRequest", "The body is not a JSON object of the expected form.")
	}
	return nil
}

// write wraps every error in an "error" object: the Azure CLI takes anything else for success.
func (c *central) write(w http.ResponseWriter, v any, err error) {
	status := http.StatusOK
	if made, ok := v.(created); ok {
		status, v = http.StatusCreated, made.body
	}
	if err == nil && v == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if err != nil {
		e, ok := errors.AsType[*azure.Error](err)
		if !ok {
			e = &azure.Error{Status: 500, Code: "InternalError", Message: err.Error()}
		}
		code := e.Code
		if code == "" {
			code = http.StatusText(e.Status)
		}
		status = e.Status
		v = map[string]any{"error": map[string]string{
			"code": code, "message": e.Message, "requestId": azure.NewGUID(), "time": c.now().UTC().Format(http.TimeFormat),
		}}
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(azure.EncodeJSON(v))
}
