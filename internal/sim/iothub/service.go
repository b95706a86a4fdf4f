package iothub

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// hubService is a hub's REST for services: the identity registry, twins, methods and queries, as
// the service SDKs and the Azure CLI use them. The hub's policies decide who may do what.
type hubService struct{ *Hub }

const (
	serviceBodyLimit = 1 << 20
	bulkLimit        = 100  // devices in one bulk request
	pageLimit        = 1000 // results in one page
	pageDefault      = 100
	tagsMaxBytes     = 8 << 10
	// callerPatience is how long before the end of a method's time its caller is told. The Azure
	// CLI reads until that end only, and would not see the answer.
	callerPatience = 250 * time.Millisecond
)

// routes adds the REST for services to the HTTPS surface.
func (s *hubService) routes(mux *http.ServeMux) {
	handle := func(pattern string, need rights, f func(w http.ResponseWriter, r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, serviceBodyLimit)
			if err := s.allow(r, need); err != nil {
				s.refuseHTTP(w, err)
				return
			}
			v, err := f(w, r)
			switch {
			case err != nil:
				s.refuseHTTP(w, err)
			case v == nil:
				w.WriteHeader(http.StatusNoContent)
			default:
				w.Header().Set("Content-Type", "application/json; charset=utf-8")
				_, _ = w.Write(azure.EncodeJSON(v))
			}
		})
	}
	for _, list := range []string{"/devices", "/devices/{$}"} { // the Node.js SDK has the slash
		handle("GET "+list, registryRead, s.listDevices)
		handle("POST "+list, registryWrite, s.bulk)
	}
	handle("POST /devices/query", serviceConnect, s.query)
	handle("GET /devices/{id}", registryRead, s.getDevice)
	handle("PUT /devices/{id}", registryWrite, s.putDevice)
	handle("DELETE /devices/{id}", registryWrite, s.deleteDevice)
	handle("DELETE /devices/{id}/commands", serviceConnect, s.purgeCommands)
	handle("GET /statistics/devices", registryRead, s.deviceStatistics)
	handle("GET /statistics/service", registryRead, s.serviceStatistics)
	handle("GET /twins/{id}", serviceConnect, s.getTwin)
	handle("PATCH /twins/{id}", serviceConnect, s.patchTwin)
	handle("PUT /twins/{id}", serviceConnect, s.replaceTwin)
	handle("POST /twins/{id}/methods", serviceConnect, s.invokeMethod)
	handle("GET /devices/{id}/modules", registryRead, s.listModules)
	handle("GET /devices/{id}/modules/{module}", registryRead, s.getDevice)
	handle("PUT /devices/{id}/modules/{module}", registryWrite, s.putDevice)
	handle("DELETE /devices/{id}/modules/{module}", registryWrite, s.deleteDevice)
	handle("GET /twins/{id}/modules/{module}", serviceConnect, s.getTwin)
	handle("PATCH /twins/{id}/modules/{module}", serviceConnect, s.patchTwin)
	handle("PUT /twins/{id}/modules/{module}", serviceConnect, s.replaceTwin)
	handle("POST /twins/{id}/modules/{module}/methods", serviceConnect, s.invokeMethod)
}

// allow checks the token of a request. It must be of a policy that has the right, and for the hub
// or a prefix of the path.
func (s *hubService) allow(r *http.Request, need rights) error {
	unauthorized := func(err error) error {
		return azure.Errorf(http.StatusUnauthorized, "IotHubUnauthorizedAccess", "Unauthorized: %v", err)
	}
	token, err := azure.ParseSAS(strings.TrimSpace(r.Header.Get("Authorization")))
	if err != nil {
		return unauthorized(err)
	}
	p, able := s.policy(token.Policy, need)
	switch {
	case p.name == "":
		return unauthorized(azure.ErrSASPolicy)
	case !token.CoversPath(s.hosts, r.URL.Path):
		return unauthorized(azure.ErrSASResource)
	case !token.Expires.After(s.now()):
		return unauthorized(azure.ErrSASExpired)
	case !token.SignedBy(p.keys[:]...):
		return unauthorized(azure.ErrSASSignature)
	case !able:
		return unauthorized(fmt.Errorf("policy %s has no right to this", token.Policy))
	}
	if !r.URL.Query().Has("api-version") {
		return azure.Errorf(http.StatusBadRequest, "InvalidProtocolVersion", "The request has no api-version.")
	}
	return nil
}

func badArgument(format string, args ...any) error {
	return azure.Errorf(http.StatusBadRequest, "ArgumentInvalid", format, args...)
}

func noSuchDevice(id string) error {
	return azure.Errorf(http.StatusNotFound, "DeviceNotFound", "Device %s not registered.", id)
}

// decodeBody reads a JSON document. As at the service, unknown fields are ignored.
func decodeBody(r *http.Request, into any) error {
	b, err := io.ReadAll(r.Body)
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return azure.Errorf(http.StatusRequestEntityTooLarge, "MessageTooLarge", "The body is larger than %d bytes.", tooLarge.Limit)
	}
	if err != nil {
		return badArgument("The body cannot be read: %v", err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return badArgument("The body is malformed: %s", azure.JSONFault(err, nil))
	}
	return nil
}
