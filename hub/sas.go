package hub

import (
	"errors"
	"time"

	"github.com/amenzhinsky/iothub/common"
)

// KeyToken returns a function for [Dialer].Token that makes SAS tokens of a symmetric key. A token
// is for {host}/devices/{deviceId}, has no policy name, and is good for ttl from the moment when it
// is made. That moment is by the clock now, with which the hub agrees. The end of a token that the
// function returns is nevertheless by time.Now, because a link's own timers are.
func KeyToken(now func() time.Time, key string, ttl time.Duration) func(host, deviceID string) (string, time.Time, error) {
	return func(host, deviceID string) (string, time.Time, error) {
		here, there := time.Now(), now()
		// A token says its end in whole seconds. If the link relied on more, the hub would close it
		// first.
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
