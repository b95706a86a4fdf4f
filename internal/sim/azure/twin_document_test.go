package azure

import (
	"testing"
	"time"
)

func FuzzTwinPatch(f *testing.F) {
	f.Add([]byte(`{"a":{"b":null,"c":[1,2.5,"x"]},"$version":3}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		patch, err := ParseTwinPatch(b)
		if err != nil {
			return
		}
		d := TwinDocument{Version: 1}
		if d.Apply(patch, time.Unix(0, 0)) == nil {
			if _, err := ParseTwinPatch(EncodeJSON(d.View(false))); err != nil {
				t.Fatalf("%s gives a document that is refused: %v", b, err)
			}
		}
	})
}
