package play

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"

	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/drill/report"
)

// TestDesiredPropertiesArePutBack: what somebody had set before the run, and what nobody had, also
// in a hub to which the device was moved meanwhile.
func TestDesiredPropertiesArePutBack(t *testing.T) {
	for _, x := range []struct {
		name, change, before, more string
		cancels                    bool
		want                       report.Outcome
	}{
		{name: "passed", before: `{"fanSpeed":7,"kept":1}`, change: "fanSpeed: 9", want: report.Passed},
		{name: "was not there", before: `{"kept":1}`, change: "fanSpeed: 9", want: report.Passed},
		{name: "changed twice", before: `{"fanSpeed":7}`, change: "fanSpeed: 9", want: report.Passed,
			more: "- {name: again, do: [desired: {fanSpeed: 11}], expect: {acknowledged: 5s}}"},
		{name: "moved", before: `{"fanSpeed":7}`, change: "fanSpeed: 9", want: report.Passed,
			more: "- {name: move, do: [failover: {for: 100h}], expect: {back: 20s}}\n- {name: again, do: [desired: {fanSpeed: 11}], expect: {acknowledged: 5s}}"},
		{name: "failed", before: `{"fanSpeed":7,"deep":{"a":{"b":1},"c":[1],"e":2},"gone":"x"}`, want: report.Failed,
			change: "fanSpeed: 9, deep: {a: {b: 2, n: 3}, c: 4, e: {f: 5}}, gone: null"},
		{name: "broken off", before: `{"fanSpeed":7}`, change: "fanSpeed: 9", cancels: true, want: report.Unknown,
			more: "- {name: end, do: [dps: {kind: down}]}"},
	} {
		t.Run(x.name, func(t *testing.T) {
			s := written(t, "steps:", "- {name: somebody, do: [dps: {kind: slow, delay: 1ms, for: 1s}]}",
				"- {name: change, do: [desired: {"+x.change+"}], expect: {acknowledged: 5s}}\n"+x.more)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w := &watched{Target: insideTarget(t)}
			var device string
			w.world = func(made *drill.World) { device = made.Devices[0].ID() }
			var cloud drill.Cloud
			faults := 0
			w.cloud = func(c drill.Cloud) drill.Cloud {
				cloud = c
				return &hooked{Cloud: c, fault: func() {
					faults++
					if faults > 1 {
						cancel()
						return
					}
					if err := c.Desire(ctx, device, json.RawMessage(x.before)); err != nil {
						t.Error(err)
					}
				}}
			}
			var before, after map[string]any
			w.closing = func() {
				twin, err := cloud.Twin(context.Background(), device)
				if err != nil {
					t.Error(err)
				}
				after = twin.Desired
			}
			rep := played(t, ctx, s, w)
			if rep.Verdict != x.want {
				t.Errorf("%s: %s\n%s", rep.Verdict, rep.Reason, findings(rep))
			}
			if strings.Contains(findings(rep), "put back") || faults == 0 || x.cancels != (faults > 1) {
				t.Errorf("%d faults: %s", faults, findings(rep))
			}
			if err := json.Unmarshal([]byte(x.before), &before); err != nil {
				t.Fatal(err)
			}
			if n, err := strconv.Atoi(fmt.Sprint(after["$version"])); n < 4 || err != nil { // in the beginning, by somebody, by the drill, and back
				t.Errorf("version %v: nothing was changed, so the test proves nothing", after["$version"])
			}
			maps.DeleteFunc(after, func(name string, _ any) bool { return strings.HasPrefix(name, "$") })
			if !same(before, after) {
				t.Errorf("before %v, after %v", before, after)
			}
		})
	}
}

// TestNothingIsDesiredAfterItWasPutBack: a command that is still tried would change it again.
func TestNothingIsDesiredAfterItWasPutBack(t *testing.T) {
	k := &keeper{} // it would panic if the cloud was asked
	if err := k.putBack(t.Context(), "d"); err != nil {
		t.Fatal(err)
	}
	if err := k.Desire(t.Context(), "d", json.RawMessage(`{"a":1}`)); !errors.Is(err, errPutBack) {
		t.Error(err)
	}
}
