package iothub

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// A hub tells that a service has switched an identity when it holds none of its locks. So whoever
// is told may ask the hub, with locks of its own.
func TestSwitchedIdentitiesAreToldWithoutALock(t *testing.T) {
	var told []string
	h := New(Options{
		Name: "hub-a", Now: time.Now, Tell: func(Event) {}, Received: func(string, int64) {},
		Switched: func(h *Hub, id string, enabled bool) {
			told = append(told, fmt.Sprint(h.Name(), id, enabled, h.Identity(id).Standing().Enabled, len(h.All())))
		},
	})
	keys, _ := h.PolicyKeys("iothubowner")
	se := fmt.Sprint(time.Now().Add(time.Hour).Unix())
	mac := hmac.New(sha256.New, keys[0])
	mac.Write([]byte("hub-a.sim.local\n" + se))
	token := "SharedAccessSignature sr=hub-a.sim.local&sig=" + url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil))) + "&se=" + se + "&skn=iothubowner"
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, status := range []string{"enabled", "disabled"} {
			r := httptest.NewRequest("PUT", "/devices/d?api-version=2021-04-12", strings.NewReader(`{"deviceId":"d","status":"`+status+`"}`))
			r.Header.Set("Authorization", token)
			if len(told) > 0 {
				r.Header.Set("If-Match", "*")
			}
			w := httptest.NewRecorder()
			if h.Front.Handler().ServeHTTP(w, r); w.Code != 200 {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("the callback waits for a lock of the hub")
	}
	if want := []string{"hub-adtrue true 1", "hub-adfalse false 1"}; !slices.Equal(told, want) {
		t.Errorf("%q, want %q", told, want)
	}
}
