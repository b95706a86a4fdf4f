package sim

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// maxEvent is the size of one telemetry message over HTTPS (docs "IoT Hub quotas and throttling": 256 KB).
const maxEvent = 256 << 10

// routes is the hub's device API over HTTPS: telemetry. Over HTTPS a hub says why it refuses, which MQTT cannot.
func (h *hub) routes(mux *http.ServeMux) {
	handleWebSocket(mux, h.speak)
	mux.HandleFunc("POST /devices/{id}/messages/events", func(w http.ResponseWriter, r *http.Request) {
		if err := h.takeEvent(w, r); err != nil {
			h.refuseHTTP(w, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.refuseHTTP(w, errorf(http.StatusNotFound, "NotFound", "There is no %s %s here.", r.Method, r.URL.Path))
	})
}

// takeEvent authenticates the device and enters its message into the ledger before anybody is told.
func (h *hub) takeEvent(w http.ResponseWriter, r *http.Request) error {
	i := h.identity(r.PathValue("id"))
	if i == nil {
		return errorf(http.StatusNotFound, "DeviceNotFound", "Device %s is not registered.", r.PathValue("id"))
	}
	if _, err := h.verify(i, strings.TrimSpace(r.Header.Get("Authorization")), r.TLS.PeerCertificates); err != nil {
		return errorf(http.StatusUnauthorized, "IotHubUnauthorizedAccess", "Unauthorized: %v.", err)
	}
	if i.usable() != nil {
		return errorf(http.StatusForbidden, "DeviceDisabled", "Device %s is disabled.", i.id)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEvent))
	if err != nil {
		return errorf(http.StatusRequestEntityTooLarge, "MessageTooLarge", "The message is larger than %d bytes.", maxEvent)
	}
	i.mu.Lock()
	from := &origin{hub: h.name, device: i.id, generation: i.generation, authType: i.auth.authType(), modelID: i.modelID,
		account: h.ledger.open(i.id)}
	i.mu.Unlock()
	h.ledger.enter(from, arrival{bag: bagOf(r.Header), body: body})
	h.events.telemetry(h.name, 1)
	return nil
}

// systemHeaders are the headers that stand for system properties; application properties come as iothub-app-{name}.
var systemHeaders = map[string]string{
	"Iothub-Messageid": "$.mid", "Iothub-Correlationid": "$.cid", "Iothub-Userid": "$.uid",
	"Iothub-Contenttype": "$.ct", "Iothub-Contentencoding": "$.ce", "Iothub-Creation-Time-Utc": "iothub-creation-time-utc",
}

// bagOf writes a request's properties as MQTT would have carried them.
func bagOf(header http.Header) []byte {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(header)) {
		key := systemHeaders[name]
		if app, ok := strings.CutPrefix(name, "Iothub-App-"); ok {
			key = strings.ToLower(app) // HTTP has lost the case of it
		}
		if key != "" {
			pairs = append(pairs, escape(key)+"="+escape(header.Get(name)))
		}
	}
	return []byte(strings.Join(pairs, "&"))
}

// refuseHTTP writes an error as hubs do: a document with a Message, and the name in a header.
func (h *hub) refuseHTTP(w http.ResponseWriter, err error) {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = &Error{Status: http.StatusInternalServerError, Code: "ServerError", Message: err.Error()}
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Iothub-Errorcode", e.Code)
	w.WriteHeader(e.Status)
	text := "ErrorCode:" + e.Code + ";" + e.Message
	if e.document != nil {
		text = string(e.document)
	}
	_, _ = w.Write(encodeJSON(map[string]string{"Message": text, "ExceptionMessage": "Tracking ID:" + h.trackingID()}))
}

// trackingID is what a hub names a refusal with.
func (h *hub) trackingID() string {
	return randomHex(16) + "-G:0-TimeStamp:" + h.now().UTC().Format("01/02/2006 15:04:05")
}
