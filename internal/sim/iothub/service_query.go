package iothub

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
	"github.com/hubhop-iot/hubhop/internal/sim/query"
)

// query answers POST /devices/query, a page at a time.
func (s *hubService) query(w http.ResponseWriter, r *http.Request) (any, error) {
	var b struct {
		Query *string `json:"query"`
	}
	if err := decodeBody(r, &b); err != nil {
		return nil, err
	}
	if b.Query == nil {
		return nil, badArgument("The body has no query.")
	}
	q, err := query.Parse(*b.Query)
	if err != nil {
		return nil, badArgument("%v", err)
	}
	size, skip, err := pageOf(r)
	if err != nil {
		return nil, err
	}
	lines, err := s.run(q)
	if err != nil {
		return nil, err
	}
	kind := "Raw"
	if q.WholeDocuments() {
		kind = "Twin"
	}
	w.Header().Set("X-Ms-Item-Type", kind)
	lines = lines[min(skip, len(lines)):]
	if len(lines) > size {
		lines = lines[:size]
		w.Header().Set("X-Ms-Continuation", base64.StdEncoding.EncodeToString([]byte(strconv.Itoa(skip+size))))
	}
	return lines, nil
}

// pageOf reads the headers that ask for a page: its size, and the number of results before it.
func pageOf(r *http.Request) (size, skip int, err error) {
	size = pageDefault
	if text := r.Header.Get("X-Ms-Max-Item-Count"); text != "" {
		if size, err = strconv.Atoi(text); err != nil || size < 1 {
			return 0, 0, badArgument("x-ms-max-item-count is %q, it must be a positive number.", text)
		}
		size = min(size, pageLimit)
	}
	if text := r.Header.Get("X-Ms-Continuation"); text != "" {
		b, err := base64.StdEncoding.DecodeString(text)
		if err == nil {
			skip, err = strconv.Atoi(string(b))
		}
		if err != nil || skip < 0 {
			return 0, 0, badArgument("x-ms-continuation is not from here.")
		}
	}
	return size, skip, nil
}

// run evaluates a query over the hub's twins, in the order of their ids.
func (s *hubService) run(q *query.Query) ([]any, error) {
	identities := s.All()
	if q.Source() == query.Modules {
		devices := identities
		identities = nil
		for _, i := range devices {
			identities = append(identities, s.ModulesOf(i)...)
		}
	}
	return q.Run(func(yield func(json.RawMessage) bool) {
		for _, i := range identities {
			i.mu.Lock()
			text := azure.EncodeJSON(i.twinDocument())
			i.mu.Unlock()
			if !yield(text) {
				return
			}
		}
	})
}
