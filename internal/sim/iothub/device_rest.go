package iothub

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/ledger"
	"github.com/hubhop-iot/hubhop/internal/sim/wire"
)

// maxEvent is the size of the largest message or batch over HTTPS. See Azure's page "IoT Hub quotas
// and throttling".
const maxEvent = 256 << 10

// batchType is the content type of a request with several messages.
const batchType = "application/vnd.microsoft.iothub.json"

// How long the lock on a message that was received over HTTPS lasts. See Azure's page "Send
// cloud-to-device messages".
const (
	lockDefault = time.Minute
	lockMax     = 5 * time.Minute
)

// routes adds the device API over HTTPS: telemetry and cloud-to-device messages. Unlike over MQTT a
// hub says why it refuses.
func (h *Hub) routes(mux *http.ServeMux) {
	wire.HandleWebSocket(mux, &wire.AMQPDesk{Hub: h.name, Log: h.log, Told: h.options.Told}, h.speak)
	handle := func(pattern string, f func(i *Identity, w http.ResponseWriter, r *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			i, err := h.deviceOf(r)
			if err == nil {
				err = f(i, w, r)
			} else {
				h.tellRefused(r.PathValue("id"), err.Error())
			}
			if err != nil {
				h.refuseHTTP(w, err)
			}
		})
	}
	handle("POST /devices/{id}/messages/events", h.takeEvents)
	handle("POST /devices/{id}/modules/{module}/messages/events", h.takeEvents)
	handle("GET /devices/{id}/messages/{box}", h.giveMessage)
	handle("DELETE /devices/{id}/messages/{box}/{token}", h.settleMessage)
	handle("POST /devices/{id}/messages/{box}/{token}/{verb}", h.settleMessage)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { h.refuseHTTP(w, noSuchPath(r)) })
}

func noSuchPath(r *http.Request) error {
	return azure.Errorf(http.StatusNotFound, "NotFound", "There is no %s %s here.", r.Method, r.URL.Path)
}

// deviceOf authenticates a request of a device or module.
func (h *Hub) deviceOf(r *http.Request) (*Identity, error) {
	id, module := r.PathValue("id"), r.PathValue("module")
	if err := h.misbehave(r); err != nil {
		return nil, err
	}
	i := h.Identity(id)
	if i == nil {
		return nil, azure.Errorf(http.StatusNotFound, "DeviceNotFound", "Device %s is not registered.", id)
	}
	if module != "" {
		if i = h.Module(id, module); i == nil {
			return nil, azure.Errorf(http.StatusNotFound, "ModuleNotFound", "Device %s has no module %s.", id, module)
		}
	}
	if _, err := h.verify(i, strings.TrimSpace(r.Header.Get("Authorization")), r.TLS.PeerCertificates); err != nil {
		return nil, azure.Errorf(http.StatusUnauthorized, "IotHubUnauthorizedAccess", "Unauthorized: %v.", err)
	}
	if i.usable() != nil {
		return nil, azure.Errorf(http.StatusForbidden, "DeviceDisabled", "Device %s is disabled.", i.name())
	}
	if r.URL.Query().Get("api-version") == "" {
		return nil, azure.Errorf(http.StatusBadRequest, "InvalidProtocolVersion", "The request has no api-version.")
	}
	return i, nil
}

// misbehave does over HTTPS what the hub's conduct says.
func (h *Hub) misbehave(r *http.Request) error {
	c := h.conduct.Load()
	if c == nil {
		return nil
	}
	if c.delay > 0 {
		late := time.NewTimer(c.delay)
		defer late.Stop()
		select {
		case <-late.C:
		case <-r.Context().Done():
			return azure.Errorf(http.StatusServiceUnavailable, "ServiceUnavailable", "The client has left.")
		}
	}
	switch {
	case c.refuse == wire.ConnackNotAuthorized:
		return azure.Errorf(http.StatusUnauthorized, "IotHubUnauthorizedAccess", "Unauthorized: fault.")
	case c.refuse != 0:
		return azure.Errorf(http.StatusServiceUnavailable, "ServiceUnavailable", "The hub is not available.")
	case c.throttle > 0:
		return azure.Errorf(http.StatusTooManyRequests, "ThrottlingException", "The request has been throttled. Wait 10 seconds and try again.")
	}
	return nil
}

// takeEvents commits a message, or all of a batch, to the ledger, and then answers.
func (h *Hub) takeEvents(i *Identity, w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxEvent))
	if err != nil {
		return azure.Errorf(http.StatusRequestEntityTooLarge, "MessageTooLarge", "The message is larger than %d bytes.", maxEvent)
	}
	arrivals := []ledger.Arrival{{Bag: bagOf(r.Header), Body: body}}
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); strings.EqualFold(strings.TrimSpace(kind), batchType) {
		if arrivals, err = parseBatch(body); err != nil {
			return err
		}
	}
	i.mu.Lock()
	from := &ledger.Origin{Hub: h.name, Device: i.id, Module: i.module, Generation: i.generation, AuthType: i.auth.AuthType(), ModelID: i.modelID}
	i.mu.Unlock()
	var b *ledger.Batch
	for _, a := range arrivals {
		b = h.ledger.Collect(b, a)
	}
	if b != nil {
		if err := h.ledger.Commit(from, b); err != nil {
			h.log.Error().Str("hub", h.name).Str("device", i.id).Err(err).Msg("messages are refused")
			return azure.Errorf(http.StatusServiceUnavailable, "ServiceUnavailable", "%v", err)
		}
	}
	h.options.Received(h.name, int64(len(arrivals)))
	if c := h.conduct.Load(); c != nil && c.dropPuback {
		<-r.Context().Done()
		return nil
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// parseBatch reads a batch. The body of a message is base64 unless the message says that it is not.
func parseBatch(body []byte) (arrivals []ledger.Arrival, err error) {
	var batch []struct {
		Body       string            `json:"body"`
		Base64     *bool             `json:"base64Encoded"`
		Properties map[string]string `json:"properties"`
	}
	if err := json.Unmarshal(body, &batch); err != nil {
		return nil, azure.Errorf(http.StatusBadRequest, "ArgumentInvalid", "The batch is not a JSON array of messages: %s", azure.JSONFault(err, nil))
	}
	if len(batch) == 0 {
		return nil, azure.Errorf(http.StatusBadRequest, "ArgumentInvalid", "The batch has no message.")
	}
	for n, m := range batch {
		a := ledger.Arrival{Bag: bagOfPairs(m.Properties), Body: []byte(m.Body)}
		if m.Base64 == nil || *m.Base64 {
			if a.Body, err = base64.StdEncoding.DecodeString(m.Body); err != nil {
				return nil, azure.Errorf(http.StatusBadRequest, "ArgumentInvalid", "Message %d of the batch is not base64.", n)
			}
		}
		arrivals = append(arrivals, a)
	}
	return arrivals, nil
}

// systemHeaders are the headers of system properties. Those of application properties are called
// iothub-app-{name}.
var systemHeaders = map[string]string{
	"iothub-messageid": "$.mid", "iothub-correlationid": "$.cid", "iothub-userid": "$.uid",
	"iothub-contenttype": "$.ct", "iothub-contentencoding": "$.ce", "iothub-creation-time-utc": "iothub-creation-time-utc",
}

const appHeader = "iothub-app-"

// bagOf returns the properties of a request as a property bag of MQTT.
func bagOf(header http.Header) []byte {
	pairs := map[string]string{}
	for name := range header {
		pairs[strings.ToLower(name)] = header.Get(name) // HTTP does not tell upper from lower case
	}
	return bagOfPairs(pairs)
}

func bagOfPairs(properties map[string]string) []byte {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		key := systemHeaders[strings.ToLower(name)]
		if len(name) > len(appHeader) && strings.EqualFold(name[:len(appHeader)], appHeader) {
			key = name[len(appHeader):]
		}
		if key != "" {
			pairs = append(pairs, azure.Escape(key)+"="+azure.Escape(properties[name]))
		}
	}
	return []byte(strings.Join(pairs, "&"))
}

// isMailbox reports whether a path is that of the mailbox. Documents and clients differ in its
// case.
func isMailbox(r *http.Request) bool { return strings.EqualFold(r.PathValue("box"), "deviceBound") }

// giveMessage answers with the oldest waiting message, and locks it.
func (h *Hub) giveMessage(i *Identity, w http.ResponseWriter, r *http.Request) error {
	if !isMailbox(r) {
		return noSuchPath(r)
	}
	timeout := lockDefault
	if text := r.Header.Get("Iothub-Messagelocktimeout"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || azure.Seconds(float64(n)) > lockMax {
			return azure.Errorf(http.StatusBadRequest, "ArgumentInvalid", "IotHub-MessageLockTimeout is %q, must be 1 to %d seconds.", text, int(lockMax/time.Second))
		}
		timeout = azure.Seconds(float64(n))
	}
	i.mu.Lock()
	m := i.mail.lock(h.now(), timeout)
	if m == nil {
		i.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	body := m.body
	header := http.Header{}
	m.headers(header)
	if err := i.saveAndUnlock(); err != nil {
		return azure.Unconfirmed(err) // the lock ends by itself
	}
	maps.Copy(w.Header(), header)
	_, _ = w.Write(body)
	return nil
}

// headers sets the headers of a message. Empty ones are there, too, because some clients need them.
func (m *letter) headers(header http.Header) {
	const moment = "1/2/2006 3:04:05 PM"
	_, bag, _ := strings.Cut(m.topic, "/messages/devicebound/")
	props := azure.ParseBag(bag)
	take := func(key string) string {
		v := props[key]
		if delete(props, key); v == nil {
			return ""
		}
		return *v
	}
	for name, value := range map[string]string{
		"Etag": `"` + m.token + `"`, "Iothub-Messageid": take("$.mid"), "Iothub-Correlationid": take("$.cid"), "Iothub-Userid": take("$.uid"),
		"Iothub-To": take("$.to"), "Iothub-Ack": take("iothub-ack"), "Iothub-Sequencenumber": strconv.Itoa(m.seq),
		"Iothub-Enqueuedtime": m.enqueued.UTC().Format(moment), "Iothub-Expiry": m.expires.UTC().Format(moment),
		"Iothub-Deliverycount": strconv.Itoa(m.deliveryCount - 1),
	} {
		header.Set(name, value)
	}
	take("$.exp")
	header.Set("Content-Type", "application/octet-stream")
	if v := take("$.ct"); v != "" {
		header.Set("Content-Type", v)
		header.Set("Contenttype", v)
	}
	if v := take("$.ce"); v != "" {
		header.Set("Contentencoding", v)
	}
	for key, value := range props {
		if value == nil {
			value = new(string)
		}
		header.Set(appHeader+key, *value)
	}
}

// settleMessage completes, rejects or abandons a message whose lock the device holds.
func (h *Hub) settleMessage(i *Identity, w http.ResponseWriter, r *http.Request) error {
	if verb := r.PathValue("verb"); !isMailbox(r) || verb != "" && verb != "abandon" {
		return noSuchPath(r)
	}
	i.mu.Lock()
	m := i.mail.locked(strings.Trim(r.PathValue("token"), `"`), h.now())
	if m == nil {
		i.mu.Unlock()
		return azure.Errorf(http.StatusPreconditionFailed, "DeviceMessageLockLost", "The lock of the message is lost.")
	}
	before := *m
	abandoned := r.Method == http.MethodPost
	switch {
	case abandoned:
		m.release()
	case r.URL.Query().Has("reject"):
		m.end(C2DDeadLettered, FeedbackRejected)
	default:
		m.end(C2DCompleted, FeedbackSuccess)
	}
	if err := i.keep(); err != nil {
		*m = before // the device still has the lock, and may try again
		i.mu.Unlock()
		return azure.Unconfirmed(err)
	}
	if abandoned && i.session != nil {
		i.session.deliverMail()
	}
	_ = i.saveAndUnlock() // only the delivery may be lost; a restart delivers it again
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// refuseHTTP writes an error as hubs do: a document with a Message, and the code in a header.
func (h *Hub) refuseHTTP(w http.ResponseWriter, err error) {
	e, ok := errors.AsType[*azure.Error](err)
	if !ok {
		e = &azure.Error{Status: http.StatusInternalServerError, Code: "ServerError", Message: err.Error()}
	}
	if e.Status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "10")
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Iothub-Errorcode", e.Code)
	w.WriteHeader(e.Status)
	text := "ErrorCode:" + e.Code + ";" + e.Message
	if e.Document != nil {
		text = string(e.Document)
	}
	_, _ = w.Write(azure.EncodeJSON(map[string]string{"Message": text, "ExceptionMessage": "Tracking ID:" + h.trackingID()}))
}

// trackingID returns a new id of a refusal, as hubs write it.
func (h *Hub) trackingID() string {
	return azure.RandomHex(16) + "-G:0-TimeStamp:" + h.now().UTC().Format("01/02/2006 15:04:05")
}
