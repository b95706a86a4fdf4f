package hub

import (
	"strings"
	"testing"
)

func TestConnectionStringsAreReadAsPeopleCopyThem(t *testing.T) {
	const key = "c2VjcmV0LXNlY3JldA=="
	usual := ConnectionString{HostName: "hub-a.azure-devices.net", DeviceID: "dev-1", Key: key}
	with := func(change func(*ConnectionString)) ConnectionString { c := usual; change(&c); return c }
	for name, v := range map[string]struct {
		text string
		want ConnectionString
	}{
		"as the portal shows it":     {"HostName=hub-a.azure-devices.net;DeviceId=dev-1;SharedAccessKey=" + key, usual},
		"any order, one ; too many":  {";SharedAccessKey=" + key + ";;DeviceId=dev-1;HostName=hub-a.azure-devices.net;", usual},
		"blanks, and a line end":     {" HostName = hub-a.azure-devices.net ;\tDeviceId=dev-1 ; SharedAccessKey= " + key + " \r\n", usual},
		"one part a line":            {"HostName=hub-a.azure-devices.net;\r\nDeviceId=dev-1;\r\nSharedAccessKey=" + key, usual},
		"a byte order mark":          {"\ufeffHostName=hub-a.azure-devices.net;DeviceId=dev-1;SharedAccessKey=" + key, usual},
		"names in any case":          {"hostname=hub-a.azure-devices.net;DEVICEID=dev-1;sharedAccessKEY=" + key, usual},
		"an id with all that may be": {"HostName=hub-a.azure-devices.net;DeviceId=aZ0-:.%_*?!(),=@$';SharedAccessKey=" + key, with(func(c *ConnectionString) { c.DeviceID = "aZ0-:.%_*?!(),=@$'" })},
		"a port":                     {"HostName=127.0.0.2:8884;DeviceId=dev-1;SharedAccessKey=" + key, with(func(c *ConnectionString) { c.HostName = "127.0.0.2:8884" })},
		"an IPv6 address":            {"HostName=[::1]:8884;DeviceId=dev-1;SharedAccessKey=" + key, with(func(c *ConnectionString) { c.HostName = "[::1]:8884" })},
		"a gateway":                  {"HostName=hub-a.azure-devices.net;DeviceId=dev-1;SharedAccessKey=" + key + ";GatewayHostName=edge-1.local", with(func(c *ConnectionString) { c.Gateway = "edge-1.local" })},
		"a certificate":              {"HostName=hub-a.azure-devices.net;DeviceId=dev-1;X509=True", with(func(c *ConnectionString) { c.Key, c.X509 = "", true })},
		"a certificate denied":       {"HostName=hub-a.azure-devices.net;DeviceId=dev-1;x509=false;SharedAccessKey=" + key, usual},
	} {
		if got, err := ParseConnectionString(v.text); err != nil || got != v.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, v := range map[string]struct{ text, says string }{
		"nothing":              {"", "no HostName"},
		"no form":              {"nonsense", "name=value"},
		"no device":            {"HostName=h;SharedAccessKey=" + key, "no DeviceId"},
		"no key":               {"HostName=h;DeviceId=d", "no SharedAccessKey"},
		"an empty key":         {"HostName=h;DeviceId=d;SharedAccessKey=", "no SharedAccessKey"},
		"a bare key":           {"HostName=h;DeviceId=d;" + key, "name=value"},
		"a key cut in two":     {"HostName=h;DeviceId=d;SharedAccessKey=x;" + strings.Repeat("c2VjcmV0", 9) + "=x", "an impossible name"},
		"twice":                {"HostName=h;hostname=i;DeviceId=d;SharedAccessKey=" + key, "HostName twice"},
		"of a module":          {"HostName=h;DeviceId=d;ModuleId=m;SharedAccessKey=" + key, "ModuleId: this is the connection string of a module"},
		"of a service":         {"HostName=h;SharedAccessKeyName=iothubowner;SharedAccessKey=" + key, "SharedAccessKeyName: this is the connection string of a service"},
		"a token":              {"HostName=h;DeviceId=d;SharedAccessSignature=SharedAccessSignature sr=h&sig=" + key + "&se=1", "SharedAccessSignature: it carries a token"},
		"what nobody knows":    {"HostName=h;DeviceId=d;SharedAccessKey=" + key + ";Protocol=amqp", "has Protocol, which hubhop does not know"},
		"key and certificate":  {"HostName=h;DeviceId=d;x509=true;SharedAccessKey=" + key, "both SharedAccessKey and x509=true"},
		"x509 of another kind": {"HostName=h;DeviceId=d;x509=" + key, "neither true nor false"},
		"a scheme":             {"HostName=https://h;DeviceId=d;SharedAccessKey=" + key, `"https://h" has a scheme`},
		"a path":               {"HostName=h/x;DeviceId=d;SharedAccessKey=" + key, `"h/x" has a path`},
		"a slash at the end":   {"HostName=h/;DeviceId=d;SharedAccessKey=" + key, `"h/" has a path`},
		"port 0":               {"HostName=h:0;DeviceId=d;SharedAccessKey=" + key, "from 1 to 65535"},
		"a port too large":     {"HostName=h:65536;DeviceId=d;SharedAccessKey=" + key, "from 1 to 65535"},
		"an empty port":        {"HostName=h:;DeviceId=d;SharedAccessKey=" + key, "from 1 to 65535"},
		"a port by name":       {"HostName=h:mqtts;DeviceId=d;SharedAccessKey=" + key, "from 1 to 65535"},
		"a host with a blank":  {"HostName=h i;DeviceId=d;SharedAccessKey=" + key, "not a host name"},
		"an empty label":       {"HostName=h..i;DeviceId=d;SharedAccessKey=" + key, "not a host name"},
		"an endless host":      {"HostName=" + strings.Repeat("h.", 4000) + "i;DeviceId=d;SharedAccessKey=" + key, "253 are the most"},
		"a terminal escape":    {"HostName=h\x1b[2J;DeviceId=d;SharedAccessKey=" + key, `\x1b`},
		"a gateway with path":  {"HostName=h;DeviceId=d;SharedAccessKey=" + key + ";GatewayHostName=g/x", "GatewayHostName"},
		"an empty gateway":     {"HostName=h;DeviceId=d;SharedAccessKey=" + key + ";GatewayHostName=", "GatewayHostName"},
		"an id with +":         {"HostName=h;DeviceId=a+b;SharedAccessKey=" + key, "no MQTT topic can carry"},
		"an id with #":         {"HostName=h;DeviceId=a#b;SharedAccessKey=" + key, "no MQTT topic can carry"},
		"an id with /":         {"HostName=h;DeviceId=a/b;SharedAccessKey=" + key, `the character '/'`},
		"an id too long":       {"HostName=h;DeviceId=" + strings.Repeat("x", 129) + ";SharedAccessKey=" + key, "128 are the most"},
	} {
		_, err := ParseConnectionString(v.text)
		switch {
		case err == nil || !strings.Contains(err.Error(), v.says):
			t.Errorf("%s: %v", name, err)
		case strings.Contains(err.Error(), "c2VjcmV0"):
			t.Errorf("%s: the error quotes the key: %v", name, err)
		case len(err.Error()) > 300 || strings.ContainsAny(err.Error(), "\r\n\x1b"):
			t.Errorf("%s: the error is no line: %q", name, err)
		}
	}
}

// FuzzConnectionString: what is accepted can be dialled and named in a topic, and no error quotes
// the key.
func FuzzConnectionString(f *testing.F) {
	f.Add("HostName=hub-a.azure-devices.net;DeviceId=dev-1;SharedAccessKey=a2V5PQ==;GatewayHostName=edge:8883")
	f.Add("hostname = [::1]:1 ;DEVICEID=d;x509=true\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseConnectionString(s)
		if err != nil {
			if len(err.Error()) > 400 || strings.ContainsAny(err.Error(), "\r\n\x1b") {
				t.Fatalf("%q", err)
			}
			return
		}
		if c.HostName == "" || c.DeviceID == "" || strings.ContainsAny(c.DeviceID, "/+#\x00") || (c.Key == "") != c.X509 {
			t.Fatalf("%+v", c)
		}
		if strings.ContainsAny(c.HostName+c.Gateway, "/ @\x00") {
			t.Fatalf("%+v", c)
		}
	})
}
