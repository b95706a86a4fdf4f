package sim

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

func azEnrollment(z *az) {
	const path = "/enrollments/dev1"
	z.exits(3, z.dpsRequest("GET", path, ""))
	host := z.info.Hubs[1].Host
	made := z.exits(0, z.dpsRequest("PUT", path, `{"registrationId": "dev1", "attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": "AAECAwQFBgcICQoLDA0ODw==", "secondaryKey": "AAECAwQFBgcICQoLDA0ODw=="}}, "capabilities": {"iotEdge": false}, "provisioningStatus": "enabled", "reprovisionPolicy": {"updateHubAssignment": true, "migrateDeviceData": true}, "allocationPolicy": "static", "iotHubs": ["`+host+`"]}`))
	if made["registrationId"] != "dev1" || made["etag"] == nil || made["allocationPolicy"] != "static" {
		z.t.Errorf("%v", made)
	}
	got := z.exits(0, z.dpsRequest("GET", path, ""))
	mechanism := z.exits(0, z.dpsRequest("POST", path+"/attestationmechanism", ""))
	if mechanism["symmetricKey"].(map[string]any)["primaryKey"] != "AAECAwQFBgcICQoLDA0ODw==" {
		z.t.Errorf("%v", mechanism)
	}
	got["attestation"], got["provisioningStatus"] = mechanism, "disabled"
	if changed := z.exits(0, z.dpsRequest("PUT", path, string(azure.EncodeJSON(got)), "If-Match: *")); changed["provisioningStatus"] != "disabled" {
		z.t.Errorf("%v", changed)
	}
	const odd = `{"query": "{'additional_properties': {}, 'query': 'SELECT *'}"}`
	if list := z.exitsWithList(z.dpsRequest("POST", "/enrollments/query", odd)); len(list) != 1 || list[0]["registrationId"] != "dev1" {
		z.t.Errorf("%v", list)
	}
	z.exits(1, z.dpsRequest("PUT", path, string(azure.EncodeJSON(got)))) // exists, and no If-Match
	if a := z.dpsRequest("DELETE", path, "", "If-Match: *"); a.status != 204 {
		z.t.Errorf("%+v", a)
	}
	a := z.resource(z.dps, "provisioningserviceowner", []byte("wrong"), "GET", path+"?api-version=2021-10-01", "")
	if z.exits(1, a); a.status != 401 {
		z.t.Errorf("%+v", a)
	}
}

func azEnrollmentGroup(z *az) {
	const odd = `{"query": "{'additional_properties': {}, 'query': 'SELECT *'}"}`
	if list := z.exitsWithList(z.dpsRequest("POST", "/enrollmentGroups/query", odd)); len(list) != 2 {
		z.t.Errorf("%v", list)
	}
	if got := z.exits(0, z.dpsRequest("GET", "/enrollmentGroups/default", "")); got["enrollmentGroupId"] != "default" {
		z.t.Errorf("%v", got)
	}
	mechanism := z.exits(0, z.dpsRequest("POST", "/enrollmentGroups/default/attestationmechanism", ""))
	if mechanism["symmetricKey"].(map[string]any)["primaryKey"] != z.info.GroupKey {
		z.t.Errorf("%v", mechanism)
	}
}

// azRegistration is `az iot device registration create`: MQTT, a user name without question mark,
// no skn, a payload of null or of a string that holds JSON.
func azRegistration(z *az) {
	address := z.info.DPS.MQTT
	var c *client
	if z.byName {
		address = "global.azure-devices-provisioning.net:8883"
		raw, refused := z.realTunnel(address)
		if raw == nil {
			z.t.Fatal(refused)
		}
		var err error
		c, err = newClient(z.t, raw, z.clientTLS(address))
		must(z.t, err)
	} else {
		var err error
		c, err = z.realDial(address)
		must(z.t, err)
	}
	resource := z.info.IDScope + "/registrations/dev1"
	c.send(connectBytes(connectOptions{id: "dev1", keepAlive: 60, clean: true,
		user:     resource + "/api-version=2019-03-31&ClientVersion=azure-iot-device-provisioning-py%2F2.12.0%28Python%203.11%29",
		password: sasFor(z.key("dev1"), resource, time.Now().Add(time.Hour), "")}))
	c.want("20020000")
	c.send(subscribeBytes(1, 1, "$dps/registrations/res/#"))
	c.want("9003000101")
	c.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid="+azRequestID, `{"payload": "{\"modelId\": \"dtmi:Sample:Failover;1\"}", "registrationId": "dev1"}`, 1, 2))
	c.want("40020002")
	topic, body := c.wantPublish()
	if !strings.HasPrefix(topic, "$dps/registrations/res/202/?$rid="+azRequestID) {
		z.t.Fatalf("%s %s", topic, body)
	}
	var status struct {
		OperationID       string
		Status            string
		RegistrationState struct{ AssignedHub, DeviceID, Status, Substatus string }
	}
	must(z.t, json.Unmarshal([]byte(body), &status))
	c.send(publishBytes("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId="+status.OperationID, " ", 1, 3))
	c.want("40020003")
	_, body = c.wantPublish()
	must(z.t, json.Unmarshal([]byte(body), &status))
	want := z.info.Hubs[0].Host
	if z.byName {
		want = "hub-a.azure-devices.net"
	}
	if status.Status != "assigned" || status.RegistrationState.AssignedHub != want {
		z.t.Errorf("%s", body)
	}
	if d := z.device("dev1"); d.ModelID != "dtmi:Sample:Failover;1" {
		z.t.Errorf("%+v", d)
	}
	c.send(publishBytes("$dps/registrations/PUT/iotdps-register/?$rid=3", `{"payload": null, "registrationId": "dev1"}`, 1, 4))
	c.want("40020004")
	if topic, body := c.wantPublish(); !strings.HasPrefix(topic, "$dps/registrations/res/202/?$rid=3") {
		z.t.Errorf("%s %s", topic, body)
	}
}
