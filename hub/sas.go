package hub

import (
	"errors"
	"fmt"
	"time"

	"github.com/amenzhinsky/iothub/common"
)

// KeyToken returns a Dialer's Token function for a symmetric key: SAS tokens for {host}/devices/{deviceId} without a policy name,
// each good for ttl from the moment it is made, by this machine's clock.
func KeyToken(key string, ttl time.Duration) func(host, deviceID string) (string, time.Time, error) {
	return KeyTokenBy(time.Now, key, ttl)
}

// KeyTokenBy is KeyToken by another clock, which the hub agrees with. The end that it tells of a token is nevertheless by time.Now,
// as a link's own timers are.
func KeyTokenBy(now func() time.Time, key string, ttl time.Duration) func(host, deviceID string) (string, time.Time, error) {
	return func(host, deviceID string) (string, time.Time, error) {
		here, there := time.Now(), now()
		end := there.Add(ttl).Truncate(time.Second) // as a token says it: a link that waited for more would be closed before
		expires := here.Add(end.Sub(there))
		sas, err := common.NewSharedAccessSignature(host+"/devices/"+deviceID, "", key, end)
		if err != nil {
			return "", time.Time{}, errors.New("the device key is not base64") // the library's error would quote a part of the key
		}
		return sas.String(), expires, nil
	}
}

// ParseConnectionString reads HostName=…;DeviceId=…;SharedAccessKey=… as the Azure portal shows it. Errors never quote the key.
func ParseConnectionString(s string) (host, deviceID, key string, err error) {
	m, err := common.ParseConnectionString(s)
	if err != nil {
		return "", "", "", errors.New("the connection string is not of the form HostName=…;DeviceId=…;SharedAccessKey=…")
	}
	for _, name := range []string{"HostName", "DeviceId", "SharedAccessKey"} {
		if m[name] == "" {
			return "", "", "", fmt.Errorf("the connection string has no %s; it must be that of a device, of the form HostName=…;DeviceId=…;SharedAccessKey=…", name)
		}
	}
	return m["HostName"], m["DeviceId"], m["SharedAccessKey"], nil
}
