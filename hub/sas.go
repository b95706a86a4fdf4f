package hub

import (
	"errors"
	"time"

	"github.com/amenzhinsky/iothub/common"
)

// KeyToken returns a Dialer's Token function for a symmetric key: SAS tokens for
// {host}/devices/{deviceId} without a policy name, each good for ttl from the moment it is made, by
// this machine's clock.
func KeyToken(key string, ttl time.Duration) func(host, deviceID string) (string, time.Time, error) {
	return KeyTokenBy(time.Now, key, ttl)
}

// KeyTokenBy is KeyToken by another clock, which the hub agrees with. The end that it tells of a
// token is nevertheless by time.Now, as a link's own timers are.
func KeyTokenBy(now func() time.Time, key string, ttl time.Duration) func(host, deviceID string) (string, time.Time, error) {
	return func(host, deviceID string) (string, time.Time, error) {
		here, there := time.Now(), now()
		// As a token says it: a link that waited for more would be closed before.
		end := there.Add(ttl).Truncate(time.Second)
		expires := here.Add(end.Sub(there))
		sas, err := common.NewSharedAccessSignature(host+"/devices/"+deviceID, "", key, end)
		if err != nil {
			// The library's error would quote a part of the key.
			return "", time.Time{}, errors.New("the device key is not base64")
		}
		return sas.String(), expires, nil
	}
}
