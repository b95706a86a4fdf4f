package iothub

import (
	"encoding/base64"
	"net"
)

// policy is a shared access policy of a hub: a token that one of its keys has signed has its
// rights. Policies never change, so nothing guards them.
type policy struct {
	name   string
	rights rights
	keys   [2][]byte // primary, secondary
}

// rights are what a policy allows, by the names that IoT Hub gives them.
type rights byte

const (
	registryRead rights = 1 << iota
	registryWrite
	serviceConnect
	deviceConnect
)

// newPolicies returns the five policies that every new hub has. key draws or returns a key by its
// name.
func newPolicies(key func(name string, size int) []byte) []policy {
	policies := []policy{
		{name: "iothubowner", rights: registryRead | registryWrite | serviceConnect | deviceConnect},
		{name: "service", rights: serviceConnect},
		{name: "device", rights: deviceConnect},
		{name: "registryRead", rights: registryRead},
		{name: "registryReadWrite", rights: registryRead | registryWrite},
	}
	for i, p := range policies {
		policies[i].keys = [2][]byte{key(p.name+"/primary", 32), key(p.name+"/secondary", 32)}
	}
	return policies
}

// policy returns the policy of a name, and whether it has the wanted rights.
func (h *Hub) policy(name string, want rights) (policy, bool) {
	for _, p := range h.policies {
		if p.name == name {
			return p, p.rights&want == want
		}
	}
	return policy{}, false
}

// ConnectionString returns what a service client of the hub is configured with.
func (h *Hub) ConnectionString() string {
	host := h.HTTPS.Told()
	if name, port, err := net.SplitHostPort(host); err == nil && port == "443" {
		host = name
	}
	owner := h.policies[0]
	return "HostName=" + host + ";SharedAccessKeyName=" + owner.name + ";SharedAccessKey=" + base64.StdEncoding.EncodeToString(owner.keys[0])
}

// PolicyKeys returns the primary and the secondary key of a policy. It is for tests.
func (h *Hub) PolicyKeys(name string) (keys [2][]byte, ok bool) {
	p, ok := h.policy(name, 0)
	return p.keys, ok
}
