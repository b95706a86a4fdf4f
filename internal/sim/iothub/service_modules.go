package iothub

import (
	"net/http"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// moduleDocument is a module's identity as the identity registry shows it.
type moduleDocument struct {
	ModuleID              string          `json:"moduleId"`
	ManagedBy             *string         `json:"managedBy"`
	DeviceID              string          `json:"deviceId"`
	GenerationID          string          `json:"generationId"`
	Etag                  string          `json:"etag"`
	ConnectionState       string          `json:"connectionState"`
	ConnectionUpdatedTime string          `json:"connectionStateUpdatedTime"`
	LastActivityTime      string          `json:"lastActivityTime"`
	CommandCount          int             `json:"cloudToDeviceMessageCount"`
	Authentication        *authentication `json:"authentication"`
}

// shown returns the document of a device or a module, and its version. mu is held.
func (i *Identity) shown() (document any, etag string) {
	d := i.document()
	if i.module == "" {
		return d, d.Etag
	}
	return moduleDocument{
		ModuleID: i.module, DeviceID: d.DeviceID, GenerationID: d.GenerationID, Etag: d.Etag, ConnectionState: d.ConnectionState,
		ConnectionUpdatedTime: d.ConnectionUpdatedTime, LastActivityTime: d.LastActivityTime, Authentication: d.Authentication,
	}, d.Etag
}

// find returns the device or the module of a request.
func (s *hubService) find(r *http.Request) (*Identity, error) {
	id, module := r.PathValue("id"), r.PathValue("module")
	i := s.Identity(id)
	if i == nil {
		return nil, noSuchDevice(id)
	}
	if module == "" {
		return i, nil
	}
	if i = s.Module(id, module); i == nil {
		return nil, noSuchModule(id, module)
	}
	return i, nil
}

func noSuchModule(device, module string) error {
	return azure.Errorf(http.StatusNotFound, "ModuleNotFound", "Module %s on device %s not registered.", module, device)
}

func (s *hubService) listModules(_ http.ResponseWriter, r *http.Request) (any, error) {
	i, err := s.find(r)
	if err != nil {
		return nil, err
	}
	all := []any{}
	for _, m := range s.ModulesOf(i) {
		m.mu.Lock()
		document, _ := m.shown()
		m.mu.Unlock()
		all = append(all, document)
	}
	return all, nil
}

// putModule creates or updates a module.
func (s *hubService) putModule(id, module string, d wantedDevice, match azure.IfMatch) (*Identity, error) {
	if err := d.check(id); err != nil {
		return nil, err
	}
	if d.ModuleID != nil && *d.ModuleID != module {
		return nil, badArgument("The module id of the body, %q, is not that of the path, %q.", *d.ModuleID, module)
	}
	if match.Given {
		i := s.Module(id, module)
		if i == nil {
			return nil, noSuchModule(id, module)
		}
		return i, s.update(i, d, match)
	}
	auth, err := d.Authentication.credentials(azure.Credentials{})
	if err != nil {
		return nil, err
	}
	return s.AdmitModule(id, module, auth)
}

func (s *hubService) removeModule(id, module string, match azure.IfMatch) error {
	i := s.Module(id, module)
	if i == nil {
		return noSuchModule(id, module)
	}
	i.mu.Lock()
	err := match.Check(i.etag())
	i.mu.Unlock()
	if err == nil {
		err = s.DeleteModule(id, module, "module deleted")
	}
	return err
}
