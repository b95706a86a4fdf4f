package play

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/hubhop-iot/hubhop/internal/drill"
)

// keeper is a cloud that notes desired properties before they are changed, and puts them back.
type keeper struct {
	drill.Cloud

	// changing is held for reading while properties are changed. What puts them back waits for
	// that, because a command of the run may still be under way.
	changing sync.RWMutex
	over     bool // properties are changed no more

	mu  sync.Mutex
	was map[string]map[string]any // value by device and property, before the first change; nil: there was none
}

// errPutBack says that a change comes too late.
var errPutBack = errors.New("the run is over, and the desired properties have been put back")

// Desire notes the properties that the patch changes for the first time, and changes them.
func (k *keeper) Desire(ctx context.Context, device string, patch json.RawMessage) error {
	k.changing.RLock()
	defer k.changing.RUnlock()
	if k.over {
		return errPutBack
	}
	if err := k.note(ctx, device, patch); err != nil {
		return fmt.Errorf("the desired properties cannot be read, and so not be put back later: %w", err)
	}
	return k.Cloud.Desire(ctx, device, patch)
}

// note remembers the values of the properties of a patch that have not been changed before. A patch
// that is no object changes nothing: the cloud refuses it.
func (k *keeper) note(ctx context.Context, device string, patch json.RawMessage) error {
	var names map[string]json.RawMessage
	if json.Unmarshal(patch, &names) != nil {
		return nil
	}
	k.mu.Lock()
	for name := range k.was[device] {
		delete(names, name)
	}
	k.mu.Unlock()
	if len(names) == 0 {
		return nil
	}
	twin, err := k.Twin(ctx, device)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.was == nil {
		k.was = map[string]map[string]any{}
	}
	if k.was[device] == nil {
		k.was[device] = map[string]any{}
	}
	for name := range names {
		if _, noted := k.was[device][name]; !noted { // somebody else may have changed it meanwhile
			k.was[device][name] = twin.Desired[name]
		}
	}
	return nil
}

// putBack gives a device the desired properties that it had before the first change. No property
// can be changed after it.
func (k *keeper) putBack(ctx context.Context, device string) error {
	k.changing.Lock()
	k.over = true
	k.changing.Unlock()
	was := k.was[device] // it does not change any more
	if len(was) == 0 {
		return nil
	}
	twin, err := k.Twin(ctx, device)
	if err != nil {
		return err
	}
	now := map[string]any{}
	for name := range was {
		now[name] = twin.Desired[name]
	}
	patch := undo(was, now)
	if len(patch) == 0 {
		return nil
	}
	text, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	return k.Cloud.Desire(ctx, device, text)
}

// undo is the patch that makes the properties what they were. A patch merges objects, so what is
// new in them is taken out by name. A property that is null is none.
func undo(was, now map[string]any) map[string]any {
	patch := map[string]any{}
	for name := range now {
		if was[name] == nil && now[name] != nil {
			patch[name] = nil
		}
	}
	for name, value := range was {
		before, isObject := value.(map[string]any)
		after, stillObject := now[name].(map[string]any)
		switch {
		case value == nil:
		case isObject && stillObject:
			if inner := undo(before, after); len(inner) > 0 {
				patch[name] = inner
			}
		case !same(value, now[name]):
			patch[name] = value
		}
	}
	return patch
}

// same says whether two values are the same as JSON.
func same(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
