package cmd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hubhop-iot/hubhop/dps"
	"github.com/hubhop-iot/hubhop/internal/device"
)

// credentials takes keys that systemd has put aside for this service (LoadCredential=group-key:…).
func (s *settings) credentials(set func(key, value, from, at string)) {
	dir, ok := s.env.lookup("CREDENTIALS_DIRECTORY")
	if !ok || s.groupKey+s.groupKeyFile+s.deviceKey+s.deviceKeyFile+s.cert+s.connectionString != "" {
		return
	}
	for _, key := range []string{"group-key", "device-key"} {
		path := filepath.Join(dir, key)
		if _, err := os.Stat(path); err == nil {
			set(key+"-file", path, "systemd credential", path)
			return
		}
	}
}

// identity finds out who the device is and how it proves it: exactly one way.
func (s *settings) identity(c *device.Config) error {
	var faults []error
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
	switch len(ways) {
	case 0:
		return errors.New("no credentials: give one of --group-key-file, --device-key-file, --cert with --key, or --connection-string (hubhop sim makes some to try)")
	case 1:
	default:
		return fmt.Errorf("%s are given together; one of them must prove who the device is", strings.Join(ways, " and "))
	}
	if s.connectionString != "" {
		if err := c.UseConnectionString(s.connectionString); err != nil {
			return fmt.Errorf("connection-string: %w", err)
		}
		if s.deviceID != "" && s.deviceID != c.DeviceID {
			return fmt.Errorf("device-id is %s, but the connection string is that of %s; leave one out", s.deviceID, c.DeviceID)
		}
		return nil
	}
	id, err := s.deviceName()
	if err != nil {
		faults = append(faults, fmt.Errorf("device-id: %w", err))
	}
	c.DeviceID = id
	if s.idScope == "" {
		faults = append(faults, errors.New("id-scope is missing; IoT Central shows it under Device connection groups, DPS on its overview page, the simulator in sim.json"))
	} else if strings.ContainsAny(s.idScope, "/ \t\r\n?&=") {
		faults = append(faults, fmt.Errorf("id-scope %q is not an ID scope; it looks like 0ne00ABCDEF", s.idScope))
	}
	if ways[0] == "cert" {
		if s.cert == "" || s.certKey == "" {
			return errors.Join(append(faults, errors.New("cert and key belong together; give both"))...)
		}
		cert, cerr := readNamed("cert", s.cert, maxPEMBytes)
		key, kerr := readNamed("key", s.certKey, maxPEMBytes)
		if err := errors.Join(cerr, kerr); err != nil {
			return errors.Join(append(faults, err)...)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			faults = append(faults, fmt.Errorf("cert %s with key %s: %w", s.cert, s.certKey, err))
		}
		c.Certificate = &pair
		return errors.Join(faults...)
	}
	key, from, err := s.secret(ways[0])
	switch {
	case err != nil:
		return errors.Join(append(faults, err)...)
	case strings.HasPrefix(ways[0], "group"):
		if err := dps.CheckKey(key); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", from, err))
		} else if len(faults) == 0 {
			c.Key, err = dps.DeriveKey(key, id)
			if err != nil {
				faults = append(faults, fmt.Errorf("%s: %w", from, err))
			}
		}
	default:
		if err := dps.CheckKey(key); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", from, err))
		}
		c.Key = key
	}
	return errors.Join(faults...)
}

// secret reads a key from where it was said to be.
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
	key, err = readKeyFile(way, path)
	return key, way + " " + path, err
}

// deviceName is the registration id: as given, or the host name made legal.
func (s *settings) deviceName() (string, error) {
	if s.deviceID != "" {
		return s.deviceID, dps.CheckRegistrationID(s.deviceID)
	}
	host, err := s.env.Hostname()
	if err != nil {
		return "", fmt.Errorf("this machine's host name is unknown (%w); give --device-id", err)
	}
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._:", r) {
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

// roots are the system's and those of --ca-file.
func (s *settings) roots() (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if s.caFile == "" {
		return pool, nil
	}
	pem, err := readNamed("ca-file", s.caFile, maxPEMBytes)
	if err != nil {
		return nil, err
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca-file: %s holds no PEM certificate", s.caFile)
	}
	return pool, nil
}
