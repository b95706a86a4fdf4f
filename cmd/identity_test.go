package cmd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/hubhop-iot/hubhop/cmd/cli"
	"github.com/hubhop-iot/hubhop/internal/secret"
	"github.com/hubhop-iot/hubhop/internal/sim"
	"github.com/hubhop-iot/hubhop/telemetry"
)

const testKey = "AAECAwQFBgcICQoLDA0ODw=="

// configure reads a command line and an environment, as run does.
func configure(t *testing.T, environ []string, args ...string) (*settings, plan, error) {
	t.Helper()
	builtin, err := os.ReadFile("../failover.json")
	if err != nil {
		t.Fatal(err)
	}
	env := &Env{Environ: append(environ, "XDG_STATE_HOME="+t.TempDir()), Hostname: func() (string, error) { return "host-1", nil }}
	s := &settings{env: env, builtin: builtin}
	s.addFlags(pflag.NewFlagSet("", pflag.ContinueOnError))
	if err := s.fs.Parse(args); err != nil {
		return s, plan{}, err
	}
	err = s.load()
	c, cerr := s.device("agent")
	return s, c, errors.Join(err, cerr)
}

// TestImpossibleAddressesAndIDsAreRefused: the usual spellings are accepted, and impossible values
// are refused with their key before anything is dialled.
func TestImpossibleAddressesAndIDsAreRefused(t *testing.T) {
	right := func(args ...string) []string {
		return append([]string{"--id-scope=0ne00ABCDEF", "--device-id=dev-1", "--group-key=" + testKey}, args...)
	}
	for _, c := range []struct {
		args []string
		want func(plan) bool
	}{
		{right("--id-scope= 0ne00ABCDEF\r\n"), func(c plan) bool { return c.id.IDScope == "0ne00ABCDEF" }},
		{right("--id-scope=0ne00000SIM"), func(c plan) bool { return c.id.IDScope == "0ne00000SIM" }},
		{right("--id-scope=0cn00012345"), func(c plan) bool { return c.id.IDScope == "0cn00012345" }},
		{right("--device-id= dev-1\r"), func(c plan) bool { return c.id.DeviceID == "dev-1" }},
		{right("--group-key= " + testKey + "\r\n"), func(c plan) bool { return c.id.Key != "" }},
		{right("--provisioning-host= Global.Azure-Devices-Provisioning.NET "), func(c plan) bool { return c.shared.Config.ProvisioningHost == "global.azure-devices-provisioning.net" }},
		{right("--provisioning-host=127.0.0.1:8883"), func(c plan) bool { return c.shared.Config.ProvisioningHost == "127.0.0.1:8883" }},
		{right("--provisioning-host=[::1]:8883"), func(c plan) bool { return c.shared.Config.ProvisioningHost == "[::1]:8883" }},
		{right("--provisioning-transport=HTTPS"), func(c plan) bool { return c.shared.Config.ProvisioningTransport == "https" }},
		{right("--drain-order=Fresh-First "), func(c plan) bool { return c.shared.Config.Drain.Order == telemetry.FreshFirst }},
		{[]string{"--connection-string= hostname = H ; DeviceId=dev-1;SharedAccessKey=" + testKey + ";GatewayHostName=edge \r\n"},
			func(c plan) bool { return c.id.PinnedHub == "H" && c.id.DeviceID == "dev-1" && c.id.Gateway == "edge" }},
	} {
		if _, got, err := configure(t, nil, c.args...); err != nil || !c.want(got) {
			t.Errorf("%q: %v", c.args, err)
		}
	}
	for _, c := range []struct{ arg, says string }{
		{"--id-scope=", "id-scope is missing"},
		{"--id-scope=my app", `id-scope "my app" is not an ID scope`},
		{"--id-scope=One00ABCDEF", "begins with the letter O"},
		{"--id-scope=0ne00ABC/EF", "is not an ID scope"},
		{"--id-scope=6a1e5b0c-0000-4000-8000-000000000000", "is not an ID scope"},
		{"--id-scope=global.azure-devices-provisioning.net", "is not an ID scope"},
		{"--provisioning-host=https://h", "provisioning-host: \"https://h\" has a scheme"},
		{"--provisioning-host=h/", "provisioning-host: \"h/\" has a path"},
		{"--provisioning-host=h/x", "has a path"},
		{"--provisioning-host=h:0", "from 1 to 65535"},
		{"--provisioning-host=h:70000", "from 1 to 65535"},
		{"--provisioning-host=h:abc", "from 1 to 65535"},
		{"--provisioning-host=h:", "from 1 to 65535"},
		{"--provisioning-host=a b", "provisioning-host"},
		{"--provisioning-host=", "provisioning-host is empty"},
		{"--device-id=a+b", "device-id"},
		{"--device-id=a#", "device-id"},
		{"--device-id=a/b", "device-id"},
		{"--device-id=a b", "device-id"},
		{"--device-id=a\x00b", "device-id"},
		{"--device-id=" + strings.Repeat("x", 129), "DPS takes 128"},
		{"--drain-order=lifo", "drain-order"},
	} {
		_, _, err := configure(t, nil, right(c.arg)...)
		if err == nil || !strings.Contains(err.Error(), c.says) || len(err.Error()) > 300 || strings.ContainsAny(err.Error(), "\n\r\x00") {
			t.Errorf("%q: %v", c.arg, err)
		}
	}
	for _, key := range []string{"id-scope", "device-id", "provisioning-host", "group-key", "group-key-file", "pipeline", "drain-window", "sas-ttl", "model", "ca-file"} {
		_, _, err := configure(t, nil, right("--"+key+"=x"+testKey+"=")...)
		if err == nil || strings.Contains(secret.Without(err.Error()), "AAECAw") {
			t.Errorf("a secret as %s: %v", key, err)
		}
	}
	const longKey = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX+BkaGxwdHh8gISIjJCUmJygpKissLS4v" // 48 bytes, so without =
	for _, conf := range []sim.Config{
		{ControlAddr: longKey + ":1"}, {ControlAddr: "x", ConnectProxy: longKey + ":1"}, {Advertise: longKey}, {Webhook: "ftp://" + longKey + "/"},
		{Webhook: "ftp://me:pass word@h/"}, {BaseAddress: longKey},
	} {
		err := checkAddresses(&conf)
		if err == nil || strings.Contains(err.Error(), longKey[:12]) || strings.Contains(err.Error(), "pass word") {
			t.Errorf("%+v: %v", conf, err)
		}
	}
	// The bundle of roots that the environment names is read up to a bound as well.
	if _, _, err := configure(t, []string{"SSL_CERT_FILE=/dev/zero"}, right()...); runtime.GOOS == "linux" &&
		(err == nil || !strings.Contains(err.Error(), "SSL_CERT_FILE: /dev/zero: this is a device")) {
		t.Error(err)
	}
	// An empty variable is unset.
	if s, c, err := configure(t, []string{"HUBHOP_DEVICE_ID=", "HUBHOP_TELEMETRY=", "HUBHOP_KEEP_ALIVE="}, "--id-scope=0ne00ABCDEF", "--group-key="+testKey); err != nil ||
		c.id.DeviceID != "host-1" || c.sample.Off.Telemetry || s.sources["device-id"] != "" {
		t.Error(c.id.DeviceID, err)
	}
	for address, right := range map[string]bool{
		"127.0.0.1:8090": true, "localhost:0": true, "[::1]:8090": true, ":8090": true, "127.0.0.1": false, "127.0.0.1:70000": false,
		"127.0.0.1:abc": false, "127.0.0.1:": false, "http://127.0.0.1:8090": false, "127.0.0.1:8090/": false, "a b:1": false, "": false,
	} {
		if err := cli.CheckListen("control", address); (err == nil) != right {
			t.Errorf("%q: %v", address, err)
		}
	}
}

// TestImpossibleLedgerAddressesAreRefused: an address of a ledger that cannot work is a fault of
// the command line, before anything is dialled.
func TestImpossibleLedgerAddressesAreRefused(t *testing.T) {
	env := &Env{DialContext: func(_ context.Context, _, addr string) (net.Conn, error) { return nil, errors.New("dialled " + addr) }}
	for where, says := range map[string]string{
		"http://127.0.0.1:70000": "from 1 to 65535", "http://127.0.0.1:0/": "from 1 to 65535", "http:///api": "ledger is empty",
		"http://a b": "ledger", ".": "this is a directory", "nowhere.json": "there is no file",
	} {
		if _, err := openLedger(t.Context(), env, where, "d"); !errors.Is(err, errUsage) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", where, err)
		}
	}
	for _, where := range []string{"http://127.0.0.1:1", " HTTP://127.0.0.1:1 \r"} {
		if _, err := openLedger(t.Context(), env, where, "d"); err == nil || !strings.Contains(err.Error(), "dialled 127.0.0.1:1") {
			t.Errorf("%q: %v", where, err)
		}
	}
}

// minted writes a certificate and its key, and returns their paths.
func minted(t *testing.T, cn string, from, to time.Time) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: cn}, NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return writePEM(t, "CERTIFICATE", der), writePEM(t, "PRIVATE KEY", pkcs8)
}

func writePEM(t *testing.T, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), strings.ToLower(strings.ReplaceAll(kind, " ", "-"))+".pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestFaultsOfCertificatesAreNamed: a fault of a certificate or its key is named with both values
// before anything is dialled.
func TestFaultsOfCertificatesAreNamed(t *testing.T) {
	now := time.Now()
	cert, key := minted(t, "Dev-1", now.Add(-time.Hour), now.Add(time.Hour))
	otherCert, otherKey := minted(t, "dev-2", now.Add(-time.Hour), now.Add(time.Hour))
	ended, endedKey := minted(t, "dev-1", now.Add(-2*time.Hour), now.Add(-time.Hour))
	early, earlyKey := minted(t, "dev-1", now.Add(time.Hour), now.Add(2*time.Hour))
	nameless, namelessKey := minted(t, "", now.Add(-time.Hour), now.Add(time.Hour))
	bad, badKey := minted(t, "a b", now.Add(-time.Hour), now.Add(time.Hour))
	locked := writePEM(t, "ENCRYPTED PRIVATE KEY", []byte("x"))
	rsaKey, err := rsa.GenerateKey(rand.Reader, 1024) // small is quick, and it opens nothing
	if err != nil {
		t.Fatal(err)
	}
	rsaFile := writePEM(t, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey))
	marked := filepath.Join(t.TempDir(), "bom.pem")
	der := filepath.Join(t.TempDir(), "der.crt")
	content, _ := os.ReadFile(cert)
	block, _ := pem.Decode(content)
	for path, b := range map[string][]byte{marked: append([]byte("\xef\xbb\xbf"), strings.ReplaceAll(string(content), "\n", "\r\n")...), der: block.Bytes} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	otherContent, _ := os.ReadFile(otherCert)
	swapped := filepath.Join(t.TempDir(), "chain.pem")
	if err := os.WriteFile(swapped, append(otherContent, content...), 0o600); err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(t.TempDir(), "device.pfx") // only its first bytes: a sequence, version 3
	if err := os.WriteFile(bundle, []byte{0x30, 0x05, 0x02, 0x01, 0x03, 0x30, 0x00}, 0o600); err != nil {
		t.Fatal(err)
	}
	scope := "--id-scope=0ne00ABCDEF"
	x509String := "--connection-string=HostName=h;DeviceId=dev-1;x509=true"
	for name, c := range map[string]struct {
		args []string
		id   string
		warn string
	}{
		"the CN is the default id":      {[]string{scope, "--cert", cert, "--key", key}, "Dev-1", ""},
		"letter case does not count":    {[]string{scope, "--cert", cert, "--key", key, "--device-id=DEV-1"}, "DEV-1", ""},
		"a byte order mark, CRLF":       {[]string{scope, "--cert", marked, "--key", key}, "Dev-1", ""},
		"ended, and the clock may lie":  {[]string{scope, "--cert", ended, "--key", endedKey}, "dev-1", "has ended at "},
		"not begun":                     {[]string{scope, "--cert", early, "--key", earlyKey}, "dev-1", "begins at "},
		"a hub alone":                   {[]string{x509String, "--cert", cert, "--key", key}, "dev-1", ""},
		"a hub alone, by thumbprint":    {[]string{x509String, "--cert", otherCert, "--key", otherKey}, "dev-1", "CN) dev-2, but the device is dev-1"},
		"a hub alone, an ID scope idle": {[]string{x509String, "--cert", cert, "--key", key, scope, "--dps-rate=5"}, "dev-1", "not used: id-scope, dps-rate; a connection"},
	} {
		s, got, err := configure(t, nil, c.args...)
		warned := strings.Join(s.warnings, "\n")
		if err != nil || got.id.DeviceID != c.id || got.id.Certificate == nil || (warned == "") != (c.warn == "") || !strings.Contains(warned, c.warn) {
			t.Errorf("%s: %q, %v, warned of %q", name, got.id.DeviceID, err, warned)
		}
	}
	for name, c := range map[string]struct {
		args []string
		says []string
	}{
		"another device's":    {[]string{scope, "--cert", otherCert, "--key", otherKey, "--device-id=dev-1"}, []string{"device-id is dev-1", "CN=dev-2"}},
		"without a CN":        {[]string{scope, "--cert", nameless, "--key", namelessKey, "--device-id=dev-1"}, []string{"has no common name", "CN=dev-1"}},
		"without both":        {[]string{scope, "--cert", nameless, "--key", namelessKey}, []string{"there is none; give --device-id"}},
		"a CN that is no id":  {[]string{scope, "--cert", bad, "--key", badKey}, []string{"device-id", `"a b"`}},
		"an encrypted key":    {[]string{scope, "--cert", cert, "--key", locked}, []string{"key: " + locked + " is encrypted", "openssl pkey"}},
		"another key":         {[]string{scope, "--cert", cert, "--key", otherKey}, []string{"does not fit", cert, otherKey, "ECDSA P-256, SHA-256"}},
		"a key of other kind": {[]string{scope, "--cert", cert, "--key", rsaFile}, []string{"does not fit", "RSA with 1024 bits", "ECDSA P-256"}},
		"exchanged":           {[]string{scope, "--cert", key, "--key", cert}, []string{"cert: ", "key: ", "exchanged"}},
		"DER":                 {[]string{scope, "--cert", der, "--key", key}, []string{"cert: " + der + " is DER"}},
		"PKCS #12":            {[]string{scope, "--cert", bundle, "--key", key}, []string{"cert: " + bundle + " is PKCS #12", "openssl pkcs12"}},
		"a chain upside down": {[]string{scope, "--cert", swapped, "--key", key}, []string{"in " + swapped + " that is not the first"}},
		"half":                {[]string{scope, "--cert", cert}, []string{"cert and key belong together"}},
		"a hub and a key":     {[]string{"--connection-string=HostName=h;DeviceId=dev-1;SharedAccessKey=" + testKey, "--cert", cert, "--key", key}, []string{"cert and connection-string are given together"}},
		"a hub and none":      {[]string{x509String}, []string{"x509=true; give the device's --cert and --key"}},
		"a hub and a bad one": {[]string{x509String, "--cert", cert, "--key", locked}, []string{"is encrypted"}},
	} {
		_, _, err := configure(t, nil, c.args...)
		for _, says := range c.says {
			if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") && name != "exchanged" {
				t.Errorf("%s: not %q: %v", name, says, err)
			}
		}
	}
}

// TestExposedSecretsGetOneWarning: each secret that others can read or replace gets one warning,
// and no more.
func TestExposedSecretsGetOneWarning(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files of Windows have no Unix permission bits, which this test sets and looks at")
	}
	file := func(dirMode, mode fs.FileMode) string {
		dir := filepath.Join(t.TempDir(), "keys")
		path := filepath.Join(dir, "group.key")
		err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(path, []byte(testKey), 0o600), os.Chmod(path, mode), os.Chmod(dir, dirMode))
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		dir, file fs.FileMode
		says      string
	}{
		{0o755, 0o600, ""}, {0o755, 0o400, ""}, {0o755, 0o640, ""}, {0o777 | fs.ModeSticky, 0o600, ""},
		{0o755, 0o644, "can be read by everybody (mode 0644)"}, {0o755, 0o666, "can be changed by others (mode 0666)"},
		{0o755, 0o660, "can be changed by others"}, {0o777, 0o600, "where everybody can put another in its place (mode 0777)"},
	} {
		path := file(c.dir, c.file)
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(path, link); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{path, link} {
			s, _, err := configure(t, nil, "--id-scope=0ne00ABCDEF", "--device-id=d", "--group-key-file", name)
			warned := strings.Join(s.exposures(), "\n")
			if err != nil || (warned == "") != (c.says == "") || !strings.Contains(warned, c.says) {
				t.Errorf("%04o %04o %s: %q, %v", c.dir, c.file, name, warned, err)
			}
		}
	}
	link := filepath.Join(filepath.Dir(file(0o777, 0o600)), "link")
	if err := os.Symlink(file(0o755, 0o600), link); err != nil {
		t.Fatal(err)
	}
	if why := cli.Exposed(link, true); !strings.Contains(why, "where everybody can put") {
		t.Errorf("a link that everybody can replace: %q", why)
	}
	for _, args := range [][]string{{"--group-key=" + testKey}, {"--device-key", testKey}, {"--connection-string=HostName=h;DeviceId=d;SharedAccessKey=" + testKey}} {
		s, _, err := configure(t, nil, append([]string{"--id-scope=0ne00ABCDEF"}, args...)...)
		if all := s.exposures(); err != nil || len(all) != 1 || !strings.Contains(all[0], "stands on the command line") || strings.Contains(all[0], testKey) {
			t.Errorf("%q: %q %v", args, all, err)
		}
	}
	config := filepath.Join(t.TempDir(), "c.yaml")
	if err := errors.Join(os.WriteFile(config, []byte("group-key: "+testKey+"\n"), 0o600), os.Chmod(config, 0o644)); err != nil {
		t.Fatal(err)
	}
	s, _, err := configure(t, nil, "--id-scope=0ne00ABCDEF", "--config", config)
	if all := s.exposures(); err != nil || len(all) != 1 || !strings.Contains(all[0], "config: "+config+" holds a secret and can be read by everybody") {
		t.Errorf("%q %v", all, err)
	}
	if err := errors.Join(os.WriteFile(config, []byte("telemetry: true\n"), 0o600), os.Chmod(config, 0o644)); err != nil {
		t.Fatal(err)
	}
	s, _, _ = configure(t, nil, "--config", config)
	if all := s.exposures(); len(all) != 0 {
		t.Errorf("a file without secrets that everybody reads: %q", all)
	}
	if err := os.Chmod(config, 0o666); err != nil {
		t.Fatal(err)
	}
	if all := s.exposures(); len(all) != 1 || !strings.Contains(all[0], "can be changed by others (mode 0666)") {
		t.Errorf("a file without secrets that everybody changes: %q", all)
	}
}
