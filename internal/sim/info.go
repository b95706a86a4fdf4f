package sim

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/store"
)

// Info is what a device, an operator or a script must know to use the cloud. It is the document
// sim.json.
type Info struct {
	IDScope           string      `json:"idScope"`
	GroupKey          string      `json:"groupKey"` // base64
	SecondaryGroupKey string      `json:"secondaryGroupKey"`
	ProvisioningHost  string      `json:"provisioningHost"` // host, or host:port in LayoutPorts
	CAFile            string      `json:"caFile"`           // beside sim.json
	DPS               DPSInfo     `json:"dps"`
	Hubs              []HubInfo   `json:"hubs"`
	Central           CentralInfo `json:"central"`
	Control           string      `json:"control"`                // URL
	ConnectProxy      string      `json:"connectProxy,omitempty"` // URL, for HTTPS_PROXY
}

// DPSInfo says where DPS listens, as host:port.
type DPSInfo struct {
	MQTT             string `json:"mqtt"`
	HTTPS            string `json:"https"`
	ConnectionString string `json:"connectionString"` // for service clients: policy provisioningserviceowner
}

// HubInfo says where a hub listens, as host:port.
type HubInfo struct {
	Name             string `json:"name"`
	Host             string `json:"host"` // as DPS assigns it
	MQTT             string `json:"mqtt"`
	HTTPS            string `json:"https"`
	ConnectionString string `json:"connectionString"` // of the policy iothubowner, for service clients
}

// CentralInfo says how to reach the IoT Central façade.
type CentralInfo struct {
	URL      string `json:"url"`
	AppID    string `json:"appId"`
	APIToken string `json:"apiToken"`
}

// Info describes the cloud; addresses are known once Start has returned.
func (s *Sim) Info() Info {
	keys := s.registry.GroupKeys()
	info := Info{
		IDScope:           s.config.IDScope,
		GroupKey:          base64.StdEncoding.EncodeToString(keys[0]),
		SecondaryGroupKey: base64.StdEncoding.EncodeToString(keys[1]),
		ProvisioningHost:  s.dps.Host(),
		CAFile:            "ca.pem",
		DPS:               DPSInfo{s.dps.MQTT.Told(), s.dps.Front.Endpoint.Told(), s.dps.ConnectionString()},
		Central:           CentralInfo{"https://" + s.dps.Front.Endpoint.Told(), s.appID, s.apiToken},
		Control:           "http://" + s.control.Told(),
	}
	if s.proxy != nil {
		info.ConnectProxy = "http://" + s.proxy.Told()
	}
	for _, h := range s.hubs {
		info.Hubs = append(info.Hubs, HubInfo{h.Name(), h.Host(), h.MQTT.Told(), h.HTTPS.Told(), h.ConnectionString()})
	}
	return info
}

// Environ returns the environment that tells a program where the cloud is. dir has the files that
// WriteFiles has written. The SIM_ variables are for any program. With the HUBHOP_ variables
// `hubhop run` needs no flags. NODE_EXTRA_CA_CERTS makes Node.js trust the cloud.
func (i Info) Environ(dir string) ([]string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	ca, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "group.key")
	vars := []string{
		"SIM_DIR=" + dir, "SIM_JSON=" + filepath.Join(dir, "sim.json"), "SIM_CA_FILE=" + ca, "SIM_GROUP_KEY_FILE=" + key,
		"SIM_ID_SCOPE=" + i.IDScope, "SIM_PROVISIONING_HOST=" + i.ProvisioningHost, "SIM_CONTROL=" + i.Control,
		"HUBHOP_ID_SCOPE=" + i.IDScope, "HUBHOP_PROVISIONING_HOST=" + i.ProvisioningHost,
		"HUBHOP_CA_FILE=" + ca, "HUBHOP_GROUP_KEY_FILE=" + key, "NODE_EXTRA_CA_CERTS=" + ca,
	}
	for _, other := range []string{"GROUP_KEY", "DEVICE_KEY", "DEVICE_KEY_FILE", "CERT", "KEY", "CONNECTION_STRING"} {
		vars = append(vars, "HUBHOP_"+other+"=") // unset, because two proofs of one device would be an error
	}
	for _, h := range i.Hubs {
		vars = append(vars, "SIM_"+strings.ToUpper(strings.ReplaceAll(h.Name, "-", "_"))+"="+h.Host)
	}
	return vars, nil
}

// CAPool holds the CA of all the simulator's certificates.
func (s *Sim) CAPool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.ca.Certificate)
	return pool
}

// DeviceCertificate makes an X.509 certificate for a device of the ready enrollment group: the
// device CA signs it, and its common name is the device id. It is valid from an hour ago until life
// from now.
func (s *Sim) DeviceCertificate(id string, life time.Duration) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sim: %w", err)
	}
	now := time.Now().Add(s.config.ClockOffset)
	template := s.deviceCA.Template(id)
	template.NotBefore, template.NotAfter = now.Add(-time.Hour), now.Add(life)
	template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	der, err := s.deviceCA.Sign(template, key.Public())
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sim: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sim: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// WriteFiles writes what other processes need into dir, made if missing: ca.pem, device-ca.pem,
// device-ca-key.pem, group.key (the primary group key, base64), and last sim.json, renamed into
// place, so that a process that sees it finds the rest. Everybody may read the directory, as far as
// the umask allows; only the owner may read files with keys.
func (s *Sim) WriteFiles(dir string) error {
	keys := s.registry.GroupKeys()
	deviceKey, err := s.deviceCA.KeyPEM()
	if err != nil {
		return err
	}
	var info bytes.Buffer
	e := json.NewEncoder(&info)
	e.SetEscapeHTML(false) // a script may well take the token out with sed
	e.SetIndent("", "  ")
	if err := e.Encode(s.Info()); err != nil {
		return fmt.Errorf("sim: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // everybody may read the CA in it
		return fmt.Errorf("sim: %w", err)
	}
	for _, f := range []struct {
		name string
		data []byte
		mode os.FileMode
	}{
		{"ca.pem", s.ca.CertificatePEM(), 0o644},
		{"device-ca.pem", s.deviceCA.CertificatePEM(), 0o644},
		{"device-ca-key.pem", deviceKey, 0o600},
		{"group.key", append(base64.StdEncoding.AppendEncode(nil, keys[0]), '\n'), 0o600},
		{"sim.json", info.Bytes(), 0o600},
	} {
		if err := store.Replace(filepath.Join(dir, f.name), f.data, f.mode); err != nil {
			return fmt.Errorf("sim: %w", err)
		}
	}
	return nil
}
