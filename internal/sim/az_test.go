package sim

import (
	"testing"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// This file plays the Azure CLI 2.45.0 with the azure-iot extension 0.23.1: the requests it sends,
// byte for byte, and its way of judging the answers, which is what decides whether a user sees a
// success. Each scenario runs by address and by Azure's names.

const azRequestID = "5b0ec8a4-2b07-11f1-9d64-0242ac110002"

const ga, preview = "?api-version=2022-07-31", "?api-version=2022-06-30-preview"

// TestAz runs every scenario by address and by Azure's names through the CONNECT proxy.
func TestAz(t *testing.T) {
	t.Run("az", func(t *testing.T) {
		for _, scenario := range azScenarios {
			t.Run(scenario.name, func(t *testing.T) {
				for _, way := range []string{"address", "proxy"} {
					t.Run(way, func(t *testing.T) {
						w := realWorld(t, func(c *Config) {
							c.ConnectProxy, c.Template = "127.0.0.1:0", []byte(testTemplate)
						})
						z := &az{world: w, t: t, central: w.info.DPS.HTTPS, dps: w.info.DPS.HTTPS, hub: "localhost:" + portOf(w.info.Hubs[0].HTTPS)}
						if way == "proxy" {
							z.byName = true
							z.central, z.hub, z.dps = w.info.Central.AppID+azure.DomainCentral, "hub-a"+azure.DomainHubs, "dps"+azure.DomainDPS
						}
						scenario.run(z)
					})
				}
			})
		}
	})
}

var azScenarios = []struct {
	name string
	run  func(z *az)
}{
	{"central-device-manual-failover", azFailover},
	{"central-device-manual-failover-refused", azFailoverRefused},
	{"central-device-show-and-list", azDevices},
	{"central-device-create-update-delete", azDeviceLife},
	{"central-device-credentials-and-registration-info", azRegistrationInfo},
	{"central-device-twin", azCentralTwin},
	{"central-device-command", azCommand},
	{"central-device-telemetry", azTelemetry},
	{"central-device-attestation", azAttestation},
	{"central-device-c2d-purge-and-edge", azSystem},
	{"central-query-and-templates", azTemplates},
	{"hub-device-identity", azIdentity},
	{"hub-query", azQuery},
	{"hub-device-twin", azTwin},
	{"hub-invoke-device-method", azMethod},
	{"hub-module-identity", azModules},
	{"device-c2d-receive-and-simulate-http", azDeviceHTTP},
	{"dps-enrollment", azEnrollment},
	{"dps-enrollment-group", azEnrollmentGroup},
	{"device-registration-create", azRegistration},
}
