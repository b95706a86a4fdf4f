package provisioning

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"
)

// registerLimit is the size of the largest body of a register request, in bytes.
const registerLimit = 96 << 10

// registerRequest is what a register request asks for.
type registerRequest struct {
	payload json.RawMessage
	csr     *signingRequest
}

// parseRegister checks the body of a register request.
func parseRegister(body []byte, c claim) (registerRequest, error) {
	var r struct {
		RegistrationID *string         `json:"registrationId"`
		Payload        json.RawMessage `json:"payload"`
		CSR            string          `json:"csr"`
		ClientCSR      string          `json:"clientCertificateCsr"`
	}
	refuse := func(text string) (registerRequest, error) {
		return registerRequest{}, &dpsError{code: 400004, text: text}
	}
	if len(body) > registerLimit {
		return refuse("The request is too large.")
	}
	if body = bytes.TrimSpace(body); len(body) == 0 || body[0] != '{' || json.Unmarshal(body, &r) != nil {
		return refuse("The request body is malformed.")
	}
	if r.RegistrationID != nil && !strings.EqualFold(*r.RegistrationID, c.registrationID) {
		return refuse("The registration id of the body is another one than that of the request.")
	}
	request := registerRequest{payload: r.Payload}
	var err error
	switch {
	case c.version == csrVersion && r.CSR != "":
		request.csr, err = parseSigningRequest(r.CSR, c.registrationID)
	case c.version == clientCSRVersion && r.ClientCSR != "":
		request.csr, err = parseSigningRequest(r.ClientCSR, c.registrationID)
	}
	return request, err
}

// validVersion reports whether an api-version has the right form: a date since DPS exists, and
// perhaps "-preview".
func validVersion(v string) bool {
	date, _ := strings.CutSuffix(v, "-preview")
	t, err := time.Parse(time.DateOnly, date)
	return err == nil && t.Year() >= 2017
}
