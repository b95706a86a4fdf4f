package provisioning

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// claim is what a client tells DPS of itself.
type claim struct {
	idScope        string
	registrationID string
	version        string // of the API
	token          string // SAS; "" with a certificate
	chain          []*x509.Certificate
	byAzureName    bool // it asked for DPS by the name Azure gives it
}

// verify checks a claim. It returns the enrollment that lets the device in, and the credentials
// that the device will have in its hub. Its errors are refusals of DPS.
func (r *Registry) verify(c claim) (*enrollment, azure.Credentials, error) {
	refuse := func(code int, text, why string) (*enrollment, azure.Credentials, error) {
		return nil, azure.Credentials{}, &dpsError{code, text, why}
	}
	if !validVersion(c.version) {
		return refuse(400004, "The api-version is missing or invalid.", "")
	}
	if c.idScope != r.config.IDScope {
		return refuse(401002, "Unauthorized", fmt.Sprintf("the ID scope is %.32q, here it is %s", c.idScope, r.config.IDScope))
	}
	if !azure.ValidRegistrationID(c.registrationID) {
		return refuse(400004, "Invalid registration id.", "")
	}
	var token *azure.SAS
	want := attestX509
	if c.token != "" {
		want = attestKey
		t, err := azure.ParseSAS(c.token)
		switch {
		case err != nil:
		case !t.CoversRegistration(c.idScope, c.registrationID):
			err = azure.ErrSASResource
		case t.Policy != "" && t.Policy != "registration": // some clients leave it out
			err = azure.ErrSASPolicy
		}
		if err != nil {
			return refuse(401000, "Unauthorized", err.Error())
		}
		token = &t
	} else if len(c.chain) == 0 {
		return refuse(401000, "Unauthorized", "neither a token nor a certificate was sent")
	}
	candidates := r.candidates(c.registrationID, want)
	var refused error
	for _, e := range candidates {
		auth, err := e.accepts(c, token, r.now())
		if err != nil {
			if _, named := errors.AsType[*azure.LeafError](refused); !named {
				refused = err
			}
			continue
		}
		if token != nil && !token.Expires.After(r.now()) {
			return refuse(401002, "Token expired.", "at "+token.Expires.UTC().Format(time.RFC3339))
		}
		return e, auth, nil
	}
	why := "there is no enrollment for it"
	if refused != nil {
		why = refused.Error()
	}
	switch {
	case token == nil:
		return refuse(401002, "Invalid certificate.", why)
	case len(candidates) == 0:
		return refuse(404201, "Enrollment not found.", "")
	}
	return refuse(401000, "Unauthorized", why)
}

// candidates returns the enrollments that may let a device in: its individual enrollment if it has
// one, else all groups with this kind of attestation.
func (r *Registry) candidates(registrationID, attestation string) []*enrollment {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.enrollments[strings.ToLower(registrationID)]; e != nil {
		return []*enrollment{e}
	}
	var groups []*enrollment
	for _, id := range slices.Sorted(maps.Keys(r.groups)) {
		if e := r.groups[id]; e.Attestation.Type == attestation {
			groups = append(groups, e)
		}
	}
	return groups
}
