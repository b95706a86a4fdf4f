package azure

import (
	"errors"
	"strings"
)

// HubUserName is a hub's MQTT user name: {host}/{device}[/{module}]/[?]api-version=...
//
// A hub also accepts {host}/{device} and {host}/{device}/, which old samples, bridges and
// Node-RED's Azure node send. It then speaks the oldest version of the protocol: it has no methods,
// and answers twin requests with 400.
type HubUserName struct {
	Host, Device, Module string
	ModelID              string
	Oldest               bool // it has no api-version
}

var errUsername = errors.New("malformed user name")

// ParseHubUserName reads a user name. An error says that it is malformed.
func ParseHubUserName(s string) (u HubUserName, err error) {
	parts := strings.Split(s, "/")
	query := ""
	if len(parts) == 2 || len(parts) == 3 && parts[2] == "" {
		u = HubUserName{Host: parts[0], Device: parts[1], Oldest: true}
		if u.Host == "" || !ValidDeviceID(u.Device) {
			return u, errUsername
		}
		return u, nil
	}
	switch len(parts) {
	case 3:
		u.Host, u.Device, query = parts[0], parts[1], parts[2]
	case 4:
		u.Host, u.Device, u.Module, query = parts[0], parts[1], parts[2], parts[3]
		if !ValidDeviceID(u.Module) {
			return u, errUsername
		}
	default: // a slash within the query breaks it apart, too: values must be percent-encoded
		return u, errUsername
	}
	query = strings.TrimPrefix(query, "?")
	if version, _ := QueryValue(query, "api-version"); version == "" || u.Host == "" || !ValidDeviceID(u.Device) {
		return u, errUsername
	}
	u.ModelID, _ = QueryValue(query, "model-id")
	return u, nil
}
