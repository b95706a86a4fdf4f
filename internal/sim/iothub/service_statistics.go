package iothub

import (
	"net/http"
)

func (s *hubService) deviceStatistics(http.ResponseWriter, *http.Request) (any, error) {
	var count struct {
		Total    int `json:"totalDeviceCount"`
		Enabled  int `json:"enabledDeviceCount"`
		Disabled int `json:"disabledDeviceCount"`
	}
	for _, i := range s.All() {
		count.Total++
		if i.mu.Lock(); i.enabled {
			count.Enabled++
		}
		i.mu.Unlock()
	}
	count.Disabled = count.Total - count.Enabled
	return count, nil
}

func (s *hubService) serviceStatistics(http.ResponseWriter, *http.Request) (any, error) {
	return map[string]int64{"connectedDeviceCount": s.live.Load()}, nil
}
