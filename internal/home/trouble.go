package home

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Mark notes for [Home.Trouble] whether a file works: err is what is wrong with it, nil if nothing.
// means says what that costs. again, unless nil, is called every few seconds while the file does
// not work. Mark returns whether the file was in trouble before.
func (h *Home) Mark(name string, err error, means string, again func() error) (was bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, was = h.troubles[name]
	if err == nil {
		delete(h.troubles, name)
		delete(h.again, name)
		return was
	}
	if h.troubles == nil {
		h.troubles, h.again = map[string]string{}, map[string]func() error{}
	}
	h.troubles[name] = fmt.Sprintf("%s: %v", means, err)
	if again != nil {
		h.again[name] = again
		if !was {
			h.next = time.Now().Add(tryAgain)
		}
	}
	return was
}

// Note is [Home.Mark] with two sentences: one when the trouble begins, and one when the disk works
// again.
func (h *Home) Note(name string, err error, means string, again func() error) {
	was := h.Mark(name, err, means, again)
	switch {
	case err != nil && !was:
		h.say("%s: %v; it is tried again and again", means, err)
	case err == nil && was:
		h.say("%s: the disk works again", name)
	}
}

// Restless says whether something has failed that can be tried again now.
func (h *Home) Restless() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.again) > 0 && !time.Now().Before(h.next)
}

// Tend tries again what has failed. It is called every few seconds.
func (h *Home) Tend() {
	h.mu.Lock()
	if len(h.again) == 0 || time.Now().Before(h.next) {
		h.mu.Unlock()
		return
	}
	h.next = time.Now().Add(tryAgain)
	again := maps.Clone(h.again)
	h.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(again)) {
		if err := again[name](); err == nil {
			h.Note(name, nil, "", nil)
		}
	}
}

// TendNow tries once more what has failed, before the device ends.
func (h *Home) TendNow() {
	h.mu.Lock()
	h.next = time.Time{}
	h.mu.Unlock()
	h.Tend()
}

// Trouble returns a sentence for each file that does not work.
func (h *Home) Trouble() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Values(h.troubles))
}
