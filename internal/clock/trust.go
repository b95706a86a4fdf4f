package clock

import "time"

// Trusted says whether nothing speaks against the machine's clock, and how far the time that the
// devices go by is ahead of it.
func (k *Clock) Trusted() (trusted bool, offset time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	base, _ := k.lookLocked()
	offset = base.Sub(k.system)
	return !k.doubt && !k.astray && !k.system.Before(k.floor), offset
}
