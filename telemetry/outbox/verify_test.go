package outbox_test

import (
	"fmt"
	"testing"

	"github.com/hubhop-iot/hubhop/telemetry/outbox"
	"github.com/hubhop-iot/hubhop/telemetry/outbox/audit"
)

func init() {
	outbox.Verify = func(t *testing.T, dir, id string, arrived int) (lost, announced uint64) {
		t.Helper()
		var a audit.Audit
		if err := a.Holds(dir); err != nil {
			t.Fatal(err)
		}
		for seq := range arrived {
			a.Arrived(fmt.Sprintf("%s-%d", id, seq+1), "")
		}
		x := a.Accounts(false)[0]
		return x.Lost, x.Announced
	}
}
