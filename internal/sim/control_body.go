package sim

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// controlBodyLimit is the largest body of a control request.
const controlBodyLimit = 1 << 20

// readBody returns the body of a request. It refuses a body that is larger than the limit of its
// reader.
func readBody(r *http.Request) ([]byte, error) {
	b, err := io.ReadAll(r.Body)
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, azure.Errorf(413, "", "the body is larger than %d bytes", tooLarge.Limit)
	}
	if err != nil {
		return nil, azure.Errorf(400, "", "the body cannot be read: %v", err)
	}
	return b, nil
}

// decodeStrict reads a body that is one JSON object and has no unknown fields. An empty body counts
// as an empty object.
func decodeStrict(r *http.Request, into any) error {
	b, err := readBody(r)
	if err != nil || len(bytes.TrimSpace(b)) == 0 {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return azure.Errorf(400, "", "the body is not what is expected here: %s", azure.JSONFault(err, into))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return azure.Errorf(400, "", "something follows the JSON object")
	}
	return nil
}

// flagParam reads a parameter of the query that is 0 or 1. It is false if it is left out.
func flagParam(r *http.Request, name string) (bool, error) {
	switch v := r.URL.Query().Get(name); v {
	case "", "0", "false":
		return false, nil
	case "1", "true":
		return true, nil
	default:
		return false, azure.Errorf(400, "", "%s is %q, must be 0 or 1", name, v)
	}
}

// writeControl writes the answer v, or the error.
func writeControl(w http.ResponseWriter, v any, err error) {
	status := http.StatusOK
	if err != nil {
		status = http.StatusInternalServerError
		body := map[string]string{"error": err.Error()}
		if e, ok := errors.AsType[*azure.Error](err); ok {
			status = e.Status
			if e.Code != "" {
				body["code"] = e.Code
			}
		}
		v = body
	}
	if v == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if stream, ok := v.(*messageStream); ok {
		stream.write(w)
		return
	}
	_, _ = w.Write(append(azure.EncodeJSON(v), '\n'))
}
