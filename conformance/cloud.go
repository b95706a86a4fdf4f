package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// info is what a simulator writes into sim.json for its clients.
type info struct {
	IDScope           string `json:"idScope"`
	GroupKey          string `json:"groupKey"`
	SecondaryGroupKey string `json:"secondaryGroupKey"`
	ProvisioningHost  string `json:"provisioningHost"`
	DPS               struct {
		MQTT             string `json:"mqtt"`
		HTTPS            string `json:"https"`
		ConnectionString string `json:"connectionString"`
	} `json:"dps"`
	Hubs []struct {
		Name             string `json:"name"`
		Host             string `json:"host"`
		MQTT             string `json:"mqtt"`
		HTTPS            string `json:"https"`
		ConnectionString string `json:"connectionString"`
	} `json:"hubs"`
	Control string `json:"control"`
}

// event is one line of GET /api/events.
type event struct {
	Kind   string `json:"kind"`
	Hub    string `json:"hub"`
	Device string `json:"device"`
	Reason string `json:"reason"`
}

// cloud is a simulator in a process of its own.
type cloud struct {
	info
	dir     string
	process *exec.Cmd
	roots   *x509.CertPool
	http    *http.Client // trusts the simulator's CA

	mu     sync.Mutex
	events []event
}

// startCloud starts a simulator on addresses of its own and returns when it is ready.
func startCloud(binary, dir, base string, flags ...string) (*cloud, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	args := append([]string{"sim", "--layout", "loopback", "--base-address", base, "--control", base + ":0", "--out", dir}, flags...)
	p := exec.Command(binary, args...)
	logs := &bytes.Buffer{}
	p.Stderr = logs
	out, err := p.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.Start(); err != nil {
		return nil, err
	}
	c := &cloud{dir: dir, process: p}
	ready := make(chan error, 1)
	go func() {
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			err = fmt.Errorf("the simulator does not get ready: %s", logs)
		}
		fmt.Print(line)
		ready <- err
	}()
	select {
	case err = <-ready:
	case <-time.After(20 * time.Second):
		err = errors.New("the simulator does not get ready within 20 s")
	}
	if err == nil {
		err = c.read()
	}
	if err != nil {
		c.stop()
	}
	return c, err
}

func (c *cloud) read() error {
	b, err := os.ReadFile(filepath.Join(c.dir, "sim.json"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &c.info); err != nil {
		return err
	}
	ca, err := os.ReadFile(c.file("ca.pem"))
	if err != nil {
		return err
	}
	c.roots = x509.NewCertPool()
	c.roots.AppendCertsFromPEM(ca)
	c.http = &http.Client{Transport: &http.Transport{TLSClientConfig: c.tls()}, Timeout: scenarioLimit}
	return c.watch()
}

func (c *cloud) file(name string) string { return filepath.Join(c.dir, name) }

func (c *cloud) tls() *tls.Config { return &tls.Config{RootCAs: c.roots, MinVersion: tls.VersionTLS12} }

// watch collects the simulator's events.
func (c *cloud) watch() error {
	begun := make(chan error, 1)
	go func() {
		r, err := http.Get(c.Control + "/api/events")
		if err != nil {
			begun <- err
			return
		}
		defer func() { _ = r.Body.Close() }()
		if r.StatusCode != http.StatusOK {
			begun <- fmt.Errorf("the simulator's events: %s", r.Status)
			return
		}
		lines := bufio.NewScanner(r.Body)
		lines.Scan() // a comment says that the watching has begun
		begun <- nil
		for lines.Scan() {
			data, ok := strings.CutPrefix(lines.Text(), "data: ")
			var e event
			if ok && json.Unmarshal([]byte(data), &e) == nil {
				c.mu.Lock()
				c.events = append(c.events, e)
				c.mu.Unlock()
			}
		}
	}()
	return <-begun
}

// stop asks the simulator to end and waits for it.
func (c *cloud) stop() {
	_ = c.process.Process.Signal(syscall.SIGTERM)
	_ = c.process.Wait()
}

// reasons are those of a device's events of a kind, one for each.
func (c *cloud) reasons(device, kind string) (reasons []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if e.Device == device && e.Kind == kind {
			reasons = append(reasons, e.Reason)
		}
	}
	return reasons
}

// api is one request to the control API; into may be nil.
func (c *cloud) api(method, path string, body, into any) error {
	var b io.Reader
	if body != nil {
		j, err := json.Marshal(body)
		if err != nil {
			return err
		}
		b = bytes.NewReader(j)
	}
	req, err := http.NewRequest(method, c.Control+path, b)
	if err != nil {
		return err
	}
	return exchange(http.DefaultClient, req, into)
}

func exchange(client *http.Client, req *http.Request, into any) error {
	r, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = r.Body.Close() }()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if r.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %d %s", req.Method, req.URL.Path, r.StatusCode, text)
	}
	if into == nil || len(text) == 0 {
		return nil
	}
	return json.Unmarshal(text, into)
}

// device is one device in the simulator's own eyes.
type device struct {
	ID           string  `json:"id"`
	AssignedHub  *string `json:"assignedHub"`
	ConnectedHub *string `json:"connectedHub"`
	Enabled      bool    `json:"enabled"`
	ModelID      string  `json:"modelId"`
}

func (c *cloud) device(id string) (d device, found bool) {
	var state struct {
		Devices []device `json:"devices"`
	}
	if c.api("GET", "/api/state", nil, &state) == nil {
		for _, d := range state.Devices {
			if d.ID == id {
				return d, true
			}
		}
	}
	return device{}, false
}

// connected says which hub a device is connected to, "" for none.
func (c *cloud) connected(id string) string {
	if d, ok := c.device(id); ok && d.ConnectedHub != nil {
		return *d.ConnectedHub
	}
	return ""
}

// ledger is what arrived from a device.
type ledger struct {
	Received   int            `json:"received"`
	Duplicates int            `json:"duplicates"`
	Hubs       map[string]int `json:"hubs"`
	Messages   []struct {
		Mid        string             `json:"mid"`
		Hub        string             `json:"hub"`
		Properties map[string]*string `json:"properties"`
		Body       any                `json:"body"`
	} `json:"messages"`
}

func (c *cloud) ledger(id string) (l ledger) {
	_ = c.api("GET", "/api/ledger?messages=1&device="+url.QueryEscape(id), nil, &l)
	return l
}

// c2d says what became of the messages to a device, as "state hub" in their order.
func (c *cloud) c2d(id string) (states []string) {
	var all struct {
		Messages []struct {
			State string `json:"state"`
		} `json:"messages"`
	}
	_ = c.api("GET", "/api/devices/"+id+"/c2d", nil, &all)
	for _, m := range all.Messages {
		states = append(states, m.State)
	}
	return states
}

// key is the device key derived from a group key.
func key(groupKey, registrationID string) string {
	k, _ := base64.StdEncoding.DecodeString(groupKey)
	mac := hmac.New(sha256.New, k)
	mac.Write([]byte(registrationID))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// token signs a resource; skn may be empty.
func token(resource, key, skn string, expires time.Time) string {
	k, _ := base64.StdEncoding.DecodeString(key)
	sr := url.QueryEscape(resource)
	mac := hmac.New(sha256.New, k)
	fmt.Fprintf(mac, "%s\n%d", sr, expires.Unix())
	sig := url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	t := fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&se=%d", sr, sig, expires.Unix())
	if skn != "" {
		t += "&skn=" + skn
	}
	return t
}

// service is one request to a service API, signed with a connection string.
func (c *cloud) service(connectionString, method, path string, body, into any) error {
	part := map[string]string{}
	for pair := range strings.SplitSeq(connectionString, ";") {
		name, value, _ := strings.Cut(pair, "=")
		part[name] = value
	}
	if part["HostName"] == "" {
		return errors.New("sim.json has no connection string for this service")
	}
	j, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(method, "https://"+part["HostName"]+path, bytes.NewReader(j))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization",
		token(part["HostName"], part["SharedAccessKey"], part["SharedAccessKeyName"], time.Now().Add(time.Hour)))
	return exchange(c.http, req, into)
}

// enroll makes an individual enrollment through the DPS service API.
func (c *cloud) enroll(registrationID, deviceID string, attestation any) error {
	return c.service(c.DPS.ConnectionString, "PUT", "/enrollments/"+registrationID+"?api-version=2021-10-01", map[string]any{
		"registrationId": registrationID, "deviceId": deviceID, "attestation": attestation, "provisioningStatus": "enabled",
	}, nil)
}

// randomKey is a symmetric key as services make them.
func randomKey() string {
	k := make([]byte, 32)
	_, _ = rand.Read(k)
	return base64.StdEncoding.EncodeToString(k)
}

// certificate is a client certificate in two files, the chain up to the CA in the first.
type certificate struct{ chain, key string }

// mint writes a certificate for a device, signed by the simulator's device CA or, if alone, by
// itself.
func (c *cloud) mint(commonName string, alone bool) (certificate, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: commonName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	parent, signer := template, any(k)
	var caPEM []byte
	if !alone {
		pair, err := tls.LoadX509KeyPair(c.file("device-ca.pem"), c.file("device-ca-key.pem"))
		if err != nil {
			return certificate{}, err
		}
		parent, signer = pair.Leaf, pair.PrivateKey
		caPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Leaf.Raw})
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, k.Public(), signer)
	if err != nil {
		return certificate{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return certificate{}, err
	}
	cert := certificate{c.file(commonName + ".pem"), c.file(commonName + "-key.pem")}
	chain := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), caPEM...)
	return cert, errors.Join(
		os.WriteFile(cert.chain, chain, 0o600),
		os.WriteFile(cert.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
}
