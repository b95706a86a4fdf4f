// Package target has the places where a drill is played outside of its own process: a simulator
// that runs ([Simulator]), an IoT Central application ([Central]), and a DPS with its hubs
// ([Hubs]). A device of this process takes part ([Inner]), or a program in any language ([Outer]).
//
// A target says what it cannot do, so that a scenario that needs it is refused before it begins.
// What a target changes it puts back when its world is closed.
package target

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/hubhop-iot/hubhop/internal/drill"
	"github.com/hubhop-iot/hubhop/internal/sim"
)

// errLacking is the error of what a cloud cannot do. A scenario that needs it has been refused
// before.
var errLacking = errors.New("this target cannot do that")

// lacking is a cloud that can do nothing. The clouds of this package embed it.
type lacking struct{}

func (lacking) State(context.Context) (s sim.State, err error) { return s, errLacking }
func (lacking) Ledger(context.Context, string, int64) (l sim.Ledger, err error) {
	return l, errLacking
}
func (lacking) FaultHub(context.Context, string, sim.Fault) error             { return errLacking }
func (lacking) HealHub(context.Context, string) error                         { return errLacking }
func (lacking) FaultDPS(context.Context, sim.DPSFault) error                  { return errLacking }
func (lacking) HealDPS(context.Context) error                                 { return errLacking }
func (lacking) Failover(context.Context, string, time.Duration) error         { return errLacking }
func (lacking) Act(context.Context, string, drill.Act) error                  { return errLacking }
func (lacking) Desire(context.Context, string, json.RawMessage) error         { return errLacking }
func (lacking) Twin(context.Context, string) (t sim.Twin, err error)          { return t, errLacking }
func (lacking) Send(context.Context, string, sim.C2D) (mid string, err error) { return "", errLacking }
func (lacking) Mail(context.Context, string) ([]sim.C2DMessage, error)        { return nil, errLacking }
func (lacking) Method(context.Context, string, string, json.RawMessage) (r sim.MethodResult, err error) {
	return r, errLacking
}

// closeLimit is how long a target may take to put back what it has changed.
const closeLimit = time.Minute

// afterwards returns a context for putting back, which lives on when ctx has ended.
func afterwards(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
}
