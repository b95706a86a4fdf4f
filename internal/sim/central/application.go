package central

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
	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
)

// Application is an IoT Central application: it serves the REST API. It decides nothing: the
// registry of DPS does. Only the history of its commands is its own, and a mutex of the history
// guards that.
type Application struct {
	registry  *provisioning.Registry
	ledger    *ledger.Ledger
	now       func() time.Time
	token     string
	templates templates // those that the application was given
	commands  commandBook
}

// Options are what an application is given.
type Options struct {
	Token    string // of the API; requests must have it as it stands here
	Template []byte // device templates: a DTDL interface or a list of them; nil means none
	Registry *provisioning.Registry
	Ledger   *ledger.Ledger   // the newest telemetry comes from there
	Now      func() time.Time // the cloud's clock
}

// New returns an application. Its error says what is wrong with the templates.
func New(o Options) (*Application, error) {
	c := &Application{registry: o.Registry, ledger: o.Ledger, now: o.Now, token: o.Token}
	if o.Template != nil {
		var err error
		if c.templates, err = parseTemplates(o.Template); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// NewToken draws the id of an application and a token for its API, in the form that IoT Central
// gives them. The token says that it is good for ten years from now.
func NewToken(now time.Time) (appID, token string) {
	sig := make([]byte, sha256.Size)
	_, _ = rand.Read(sig) // never fails since Go 1.24
	appID = azure.NewGUID()
	return appID, fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&skn=hubhop&se=%d", appID,
		azure.Escape(base64.StdEncoding.EncodeToString(sig)), now.AddDate(10, 0, 0).UnixMilli())
}

// bodyLimit is the size of the largest body of a request, in bytes.
const bodyLimit = 1 << 20

// Routes adds IoT Central's API to the HTTPS surface of its host.
func (c *Application) Routes(mux *http.ServeMux) {
	handle := func(pattern string, f func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, bodyLimit)
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
func (c *Application) allow(r *http.Request) error {
	text := r.Header.Get("Authorization")
	switch {
	case subtle.ConstantTimeCompare([]byte(text), []byte(c.token)) == 1:
		return nil
	case strings.HasPrefix(text, "Bearer "):
		return azure.Errorf(401, "Unauthorized", "This application is simulated and knows no Azure users: use the API token of sim.json, as it stands there.")
	}
	return azure.Errorf(401, "Unauthorized", "The authorization token is not valid for this application.")
}

// decodeLenient reads a JSON object as IoT Central does: it ignores fields that it does not know,
// and an empty body.
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
func (c *Application) write(w http.ResponseWriter, v any, err error) {
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
