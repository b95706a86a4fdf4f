package cmd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hubhop-iot/hubhop/cmd/cli"
	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/hub"
	"github.com/hubhop-iot/hubhop/internal/azname"
	"github.com/hubhop-iot/hubhop/internal/device"
	"github.com/hubhop-iot/hubhop/internal/namedfile"
	"github.com/hubhop-iot/hubhop/internal/pemfile"
	"github.com/hubhop-iot/hubhop/internal/secret"
)

// fromSystemd names the source of a key that systemd passes to the service.
const fromSystemd = "systemd credential"

// credentials reads the keys that systemd passes to this service (LoadCredential=group-key:…).
func (s *settings) credentials(set func(key, value, from, at string)) {
	dir, ok := s.env.lookup("CREDENTIALS_DIRECTORY")
	if !ok || s.groupKey+s.groupKeyFile+s.deviceKey+s.deviceKeyFile+s.cert+s.connectionString != "" {
		return
	}
	for _, key := range []string{"group-key", "device-key"} {
		path := filepath.Join(dir, key)
		if _, err := os.Stat(path); err == nil {
			set(key+"-file", path, fromSystemd, path)
			return
		}
	}
}

// identity sets the device's id and its proof. There must be exactly one way to prove the id.
func (s *settings) identity(c *device.Identity) error {
	given := map[string]bool{
		"group-key": s.groupKey != "", "group-key-file": s.groupKeyFile != "", "device-key": s.deviceKey != "",
		"device-key-file": s.deviceKeyFile != "", "cert": s.cert != "" || s.certKey != "", "connection-string": s.connectionString != "",
	}
	var ways []string
	for _, way := range []string{"group-key", "group-key-file", "device-key", "device-key-file", "cert", "connection-string"} {
		if given[way] {
			ways = append(ways, way)
		}
	}
	switch {
	case len(ways) == 0:
		return errors.New("no credentials: give one of --group-key-file, --device-key-file, --cert with --key, or --connection-string (hubhop sim makes some to try)")
	case len(ways) == 2 && given["cert"] && given["connection-string"]: // with x509=true
	case len(ways) > 1:
		return fmt.Errorf("%s are given together; one of them must prove who the device is", strings.Join(ways, " and "))
	}
	s.credential = strings.TrimSuffix(ways[0], "-file")
	if given["cert"] {
		s.credential = "certificate"
	}
	var faults []error
	if given["cert"] {
		var err error
		if c.Certificate, err = pemfile.Pair(s.cert, s.certKey); err != nil {
			faults = append(faults, err)
		}
	}
	if given["connection-string"] {
		return errors.Join(append(faults, s.pinned(c, given["cert"]))...)
	}
	id, err := s.deviceName(c.Certificate)
	if err != nil && (len(faults) == 0 || s.deviceID != "") { // the name may come from the certificate, whose error is told
		faults = append(faults, fmt.Errorf("device-id: %w", err))
	}
	c.DeviceID = id
	if err := cli.CheckIDScope(c.IDScope); err != nil {
		faults = append(faults, fmt.Errorf("id-scope %w", err))
	}
	if given["cert"] {
		if c.Certificate != nil && err == nil {
			faults = append(faults, pemfile.CheckCommonName(c.Certificate, s.cert, id))
		}
		return errors.Join(faults...)
	}
	key, from, err := s.secret(ways[0])
	if err != nil {
		return errors.Join(append(faults, err)...)
	}
	if err := dps.CheckKey(key); err != nil {
		return errors.Join(append(faults, fmt.Errorf("%s: %w", from, err))...)
	}
	c.Key = key
	if strings.HasPrefix(ways[0], "group") && len(faults) == 0 {
		if c.Key, err = dps.DeriveKey(key, id); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", from, err))
		}
	}
	return errors.Join(faults...)
}

// pinned takes id, hub and key from the connection string. Only a string with x509=true has a
// certificate.
func (s *settings) pinned(c *device.Identity, certificate bool) error {
	if certificate && c.Certificate == nil { // it could not be read; that error is told
		c.Certificate = new(tls.Certificate)
		defer func() { c.Certificate = nil }()
	}
	if err := c.UseConnectionString(s.connectionString); err != nil {
		return fmt.Errorf("connection-string: %w", err)
	}
	if certificate && c.Key != "" {
		return errors.New("cert and connection-string are given together, and the string has a key of its own; leave one out, or give the string with x509=true")
	}
	if s.deviceID != "" && s.deviceID != c.DeviceID {
		return fmt.Errorf("device-id is %s, but the connection string is that of %s; leave one out", secret.Quotable(s.deviceID), c.DeviceID)
	}
	var idle []string
	for _, key := range []string{"id-scope", "provisioning-host", "provisioning-transport", "known-hubs", "dps-rate", "hedge-delay"} {
		if s.sources[key] != "" {
			idle = append(idle, key)
		}
	}
	if len(idle) > 0 {
		s.warn(fmt.Sprintf("not used: %s; a connection string names its hub, and DPS is not asked", strings.Join(idle, ", ")))
	}
	if certificate && c.Certificate.Leaf != nil && !strings.EqualFold(c.Certificate.Leaf.Subject.CommonName, c.DeviceID) {
		s.warn(fmt.Sprintf("cert %s has the common name (CN) %s, but the device is %s: a hub takes it by its thumbprint only",
			secret.Quotable(s.cert), secret.Quotable(c.Certificate.Leaf.Subject.CommonName), c.DeviceID))
	}
	return nil
}

// secret reads a key from its flag, file or variable.
func (s *settings) secret(way string) (key, from string, err error) {
	switch way {
	case "group-key":
		return s.groupKey, way, nil
	case "device-key":
		return s.deviceKey, way, nil
	}
	path := s.groupKeyFile
	if way == "device-key-file" {
		path = s.deviceKeyFile
	}
	key, err = namedfile.ReadKey(way, path)
	return key, way + " " + secret.Quotable(path), err
}

// name returns the device's id and its source, without reading the proof.
func (s *settings) name() (name, source string, err error) {
	source = "default (host name)"
	switch {
	case s.connectionString != "":
		cs, err := hub.ParseConnectionString(s.connectionString)
		if err != nil {
			return "", "", fmt.Errorf("connection-string: %w", err)
		}
		return cs.DeviceID, "connection-string", nil
	case s.cert+s.certKey != "" && s.deviceID == "":
		source = "default (common name of the certificate)"
	}
	var certificate *tls.Certificate
	if s.deviceID == "" {
		if certificate, err = pemfile.Pair(s.cert, s.certKey); err != nil {
			return "", "", err
		}
	}
	name, err = s.deviceName(certificate)
	if err != nil {
		err = fmt.Errorf("device-id: %w", err)
	}
	return name, source, err
}

// deviceName returns the registration id: --device-id, or the certificate's common name (DPS takes
// no other), or the host name made legal.
func (s *settings) deviceName(certificate *tls.Certificate) (string, error) {
	switch {
	case s.deviceID != "":
		return s.deviceID, cli.CheckRegistrationID(s.deviceID)
	case certificate != nil && certificate.Leaf.Subject.CommonName != "":
		return certificate.Leaf.Subject.CommonName, dps.CheckRegistrationID(certificate.Leaf.Subject.CommonName)
	case s.cert != "" || s.certKey != "":
		return "", errors.New("it is the common name (CN) of the certificate, and there is none; give --device-id")
	}
	host, err := s.env.Hostname()
	if err != nil {
		return "", fmt.Errorf("this machine's host name is unknown (%w); give --device-id", err)
	}
	name := strings.Map(func(r rune) rune {
		if azname.IsAlphanumeric(r) || strings.ContainsRune("-._:", r) {
			return r
		}
		return '-'
	}, host)
	name = strings.TrimRight(name[:min(len(name), dps.MaxRegistrationID)], "._:")
	if err := dps.CheckRegistrationID(name); err != nil {
		return "", fmt.Errorf("no legal one can be made of the host name %q; give --device-id", host)
	}
	return name, nil
}

// roots returns the trusted roots: the system's and those of --ca-file.
func (s *settings) roots() (*x509.CertPool, error) {
	bundle, _ := s.env.lookup("SSL_CERT_FILE")
	return pemfile.Roots(s.caFile, bundle)
}
