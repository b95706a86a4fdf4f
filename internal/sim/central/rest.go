package central

import (
	"net/http"
	"regexp"
	"sync"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// This file has the routes of IoT Central's public REST API, and of the part of its system API that
// the Azure CLI uses.

const (
	centralPage    = 25 // devices in one answer
	centralHistory = 25 // runs remembered of each command of each device
)

// routesREST adds the API. The function handle checks the token of a request and writes the answer.
func (c *Application) routesREST(handle func(pattern string, f func(r *http.Request) (any, error))) {
	api := func(pattern string, f func(r *http.Request) (any, error)) {
		handle(pattern, func(r *http.Request) (any, error) {
			if err := checkCentralVersion(r); err != nil {
				return nil, err
			}
			return f(r)
		})
	}
	api("GET /api/devices", c.listDevices)
	api("GET /api/devices/{id}", c.showDevice)
	api("PUT /api/devices/{id}", c.createDevice)
	api("PATCH /api/devices/{id}", c.updateDevice)
	api("DELETE /api/devices/{id}", c.deleteDevice)
	api("GET /api/devices/{id}/credentials", c.credentials)
	api("GET /api/devices/{id}/attestation", c.showAttestation)
	api("PUT /api/devices/{id}/attestation", func(r *http.Request) (any, error) { return c.writeAttestation(r, false) })
	api("PATCH /api/devices/{id}/attestation", func(r *http.Request) (any, error) { return c.writeAttestation(r, true) })
	api("DELETE /api/devices/{id}/attestation", c.deleteAttestation)
	api("GET /api/deviceTemplates", c.listTemplates)
	api("GET /api/deviceTemplates/{template}", c.showTemplate)
	api("POST /api/query", func(*http.Request) (any, error) {
		return nil, azure.Errorf(http.StatusUnprocessableEntity, "UnsupportedQuery",
			"This IoT Central is simulated and answers no telemetry queries: ask for the last value with GET /api/devices/{id}/telemetry/{name}, or the ledger of the control API for all of them.")
	})
	for _, base := range []string{"/api/devices/{id}", "/api/devices/{id}/components/{component}"} {
		api("GET "+base+"/properties", c.showProperties)
		api("PATCH "+base+"/properties", func(r *http.Request) (any, error) { return c.writeProperties(r, false) })
		api("PUT "+base+"/properties", func(r *http.Request) (any, error) { return c.writeProperties(r, true) })
		api("GET "+base+"/telemetry/{name}", c.lastTelemetry)
		api("POST "+base+"/commands/{name}", c.runCommand)
		api("GET "+base+"/commands/{name}", c.commandHistory)
	}
	handle("GET /system/iothub/devices/{id}/get-twin", c.systemTwin)
	handle("DELETE /system/iothub/devices/{id}/c2d", c.purgeC2D)
	handle("GET /system/iotedge/devices/{id}/modules", func(r *http.Request) (any, error) {
		_, err := c.registry.Record(r.PathValue("id"))
		return map[string]any{"modules": []any{}}, err
	})
}

var centralVersion = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(1\.\d|preview|20\d\d-\d\d-\d\d(-preview)?)$`) })

func checkCentralVersion(r *http.Request) error {
	switch version := r.URL.Query().Get("api-version"); {
	case version == "":
		return azure.Errorf(http.StatusBadRequest, "MissingApiVersionParameter", "The api-version query parameter (?api-version=) is required for all requests.")
	case !centralVersion().MatchString(version):
		return azure.Errorf(http.StatusBadRequest, "UnsupportedApiVersion", "The api-version %q is not supported: 2022-07-31 is.", version)
	}
	return nil
}
