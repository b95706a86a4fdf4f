package iothub

import (
	"cmp"
	"maps"
	"slices"
	"strconv"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// maxModules is the number of modules that a device may have.
const maxModules = 50

// Module returns the identity of a module, nil if the hub has none.
func (h *Hub) Module(device, module string) *Identity {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := h.identities[device]; i != nil {
		return i.modules[module]
	}
	return nil
}

// ModulesOf returns the modules of a device in the order of their ids.
func (h *Hub) ModulesOf(device *Identity) []*Identity {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.SortedFunc(maps.Values(device.modules), func(a, b *Identity) int { return cmp.Compare(a.module, b.module) })
}

// AdmitModule creates a module of a device. Its error is an [azure.Error], and then there is no new
// module.
func (h *Hub) AdmitModule(device, module string, auth azure.Credentials) (*Identity, error) {
	if !azure.ValidDeviceID(module) {
		return nil, azure.Errorf(400, "ArgumentInvalid", "%q is no module id.", module)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	i := h.identities[device]
	switch {
	case i == nil:
		return nil, azure.Errorf(404, "DeviceNotFound", "Device %s not registered.", device)
	case i.modules[module] != nil:
		return nil, azure.Errorf(409, "ModuleAlreadyExistsOnDevice", "Module %s exists on device %s already.", module, device)
	case len(i.modules) >= maxModules:
		return nil, azure.Errorf(413, "TooManyModulesOnDevice", "Device %s has %d modules already.", device, maxModules)
	}
	m := &Identity{id: device, module: module, parent: i, hub: h, enabled: true, auth: auth,
		generation: strconv.FormatInt(h.now().UnixNano()/100, 10)}
	m.desired.Version, m.report.Version = 1, 1
	if i.modules == nil {
		i.modules = map[string]*Identity{}
	}
	i.modules[module] = m
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.keep(); err != nil {
		delete(i.modules, module)
		return nil, azure.Unconfirmed(err)
	}
	return m, nil
}

// DeleteModule removes a module with its twin, and closes its connection. An error says that there
// is no such module, or that the removal was not written down, so a restart may bring the module
// back.
func (h *Hub) DeleteModule(device, module, reason string) error {
	err := noSuchModule(device, module)
	h.mu.Lock()
	var m *Identity
	var live *session
	if i := h.identities[device]; i != nil {
		m = i.modules[module]
		delete(i.modules, module)
	}
	if m != nil {
		live, err = m.bury()
		err = azure.Unconfirmed(err)
	}
	h.mu.Unlock()
	if live != nil {
		live.wire.HangUp(reason)
	}
	return err
}
