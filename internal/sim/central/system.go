package central

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/iothub"
	"github.com/hubhop-iot/hubhop/internal/sim/provisioning"
)

func (c *Application) systemTwin(r *http.Request) (any, error) {
	i, err := c.registry.Placed(r.PathValue("id"))
	if err != nil {
		// The Azure CLI recognises this text, and takes an error object for something else.
		return nil, azure.Errorf(http.StatusNotFound, "NotFound", "Twin for device %s was not found", r.PathValue("id"))
	}
	return i.ServiceTwin(), nil
}

func (c *Application) purgeC2D(r *http.Request) (any, error) {
	id := r.PathValue("id")
	i, err := c.registry.Placed(id)
	if err != nil {
		return nil, err
	}
	n, err := i.Purge()
	if err != nil {
		return nil, err
	}
	return map[string]string{"message": "Cloud to device (C2D) message queue purged for device " + id + ". Total messages purged: " + strconv.Itoa(n) + "."}, nil
}

// hubIdentifier names a hub without its host: the hub being left, in both directions.
func hubIdentifier(h *iothub.Hub) string {
	sum := sha256.Sum256([]byte(h.Host()))
	return hex.EncodeToString(sum[:])
}

type moveAnswer struct {
	HubIdentifier string `json:"hubIdentifier"`
	Message       string `json:"message"`
}

func (c *Application) manualFailover(r *http.Request) (any, error) {
	var b struct {
		TTL *float64 `json:"ttl"`
	}
	if err := decodeLenient(r, &b); err != nil {
		return nil, err
	}
	ttl := provisioning.DefaultFailover
	if b.TTL != nil {
		if minutes := *b.TTL; minutes != float64(int(minutes)) || minutes < 1 || minutes > 30 {
			return nil, azure.Errorf(400, "BadRequest", "ttl is %s, it must be 1 to 30 minutes.", strconv.FormatFloat(minutes, 'g', -1, 64))
		}
		ttl = time.Duration(*b.TTL) * time.Minute
	}
	left, until, err := c.registry.Failover(r.PathValue("id"), ttl)
	if err != nil {
		return nil, err
	}
	return moveAnswer{hubIdentifier(left), "Success! This device is now being failed over. You can check your device's status using " +
		"'iot central device registration-info' command. The device will revert to its original hub at " +
		until.UTC().Format(http.TimeFormat) + ". You can choose to failback earlier using device-manual-failback command. " +
		"Learn more: https://aka.ms/iotc-device-test"}, nil
}

func (c *Application) manualFailback(r *http.Request) (any, error) {
	left, err := c.registry.Failback(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if left == nil {
		return nil, azure.Errorf(409, "DeviceNotFailedOver", "Device %s is on its original hub.", r.PathValue("id"))
	}
	return moveAnswer{hubIdentifier(left), "Device has successfully failed back to its original hub"}, nil
}
