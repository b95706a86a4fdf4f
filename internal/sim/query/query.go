// Package query is the query language of IoT Hub, as far as a simulator needs it: SELECT with *,
// paths and COUNT, SUM, AVG, MIN and MAX; TOP; FROM devices and FROM devices.modules; WHERE with
// comparisons, IN and NIN lists, AND, OR, NOT and the common functions; GROUP BY.
//
// [Parse] reads a query, and [Query.Run] answers it over JSON documents that the caller brings. The
// package keeps no state and knows nothing of hubs or twins.
package query

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
)

// A Source is the collection that a query reads.
type Source string

// The sources that a query may name.
const (
	Devices Source = "devices"
	Modules Source = "devices.modules"
)

// errMalformed is wrapped by every error of Parse.
var errMalformed = errors.New("malformed query")

// Query is a parsed query. It does not change, so any number of goroutines may run it.
type Query struct {
	top     int  // the largest number of lines of an answer; 0 is no limit
	all     bool // SELECT *
	columns []column
	source  Source
	where   condition // nil accepts every document
	groupBy []path
}

// Source returns the collection that the query reads.
func (q *Query) Source() Source { return q.source }

// WholeDocuments reports whether the lines of the answer are the documents themselves (SELECT *).
func (q *Query) WholeDocuments() bool { return q.all }

// Run returns the lines of the answer. Each document is a JSON object. The lines keep the order of
// the documents; groups come in the order in which they were met. A line of SELECT * is the
// document itself, byte for byte. Run returns an error if something is not a JSON object.
func (q *Query) Run(documents iter.Seq[json.RawMessage]) ([]any, error) {
	lines := []any{}
	for text := range documents {
		document, err := decode(text)
		if err != nil {
			return nil, err
		}
		if q.where != nil && !q.where(document) {
			continue
		}
		switch {
		case q.all:
			lines = append(lines, text)
		case q.aggregates():
			lines = append(lines, document)
		default:
			lines = append(lines, q.project(document))
		}
	}
	if q.aggregates() {
		lines = q.group(lines)
	}
	if q.top > 0 && len(lines) > q.top {
		lines = lines[:q.top]
	}
	return lines, nil
}

// decode reads a JSON object. Its numbers stay as they were written.
func decode(text json.RawMessage) (document map[string]any, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err = d.Decode(&document); err == nil && document == nil {
		err = errors.New("not a JSON object")
	}
	return document, err
}

// aggregates reports whether the answer has a line for each group instead of one for each document.
func (q *Query) aggregates() bool {
	return len(q.groupBy) > 0 || slices.ContainsFunc(q.columns, func(c column) bool { return c.aggregate != "" })
}

// column is one column of an answer: the value at a path, or an aggregate of such values.
type column struct {
	name      string
	aggregate string // in upper case; "" for a plain value
	path      path
}

// project returns one line of an answer that consists of columns.
func (q *Query) project(document any) map[string]any {
	line := map[string]any{}
	for _, c := range q.columns {
		if v, ok := c.path.in(document); ok {
			line[c.name] = v
		}
	}
	return line
}

// group returns the lines of an answer with aggregates. Without GROUP BY all documents are one
// group, even if there are none.
func (q *Query) group(documents []any) []any {
	var keys []string
	members := map[string][]any{}
	for _, document := range documents {
		var key bytes.Buffer
		for _, p := range q.groupBy {
			v, ok := p.in(document)
			text, _ := json.Marshal(v) // what was decoded can be encoded
			fmt.Fprintf(&key, "%v %s\n", ok, text)
		}
		if members[key.String()] == nil {
			keys = append(keys, key.String())
		}
		members[key.String()] = append(members[key.String()], document)
	}
	if len(q.groupBy) == 0 && len(keys) == 0 {
		keys = []string{""}
	}
	lines := []any{}
	for _, key := range keys {
		line := map[string]any{}
		for _, c := range q.columns {
			if c.aggregate != "" {
				line[c.name] = c.over(members[key])
			} else if v, ok := c.path.in(members[key][0]); ok {
				line[c.name] = v
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// over computes an aggregate of those members of a group that have the value. Without any it is
// nil, which is null in JSON.
func (c column) over(documents []any) any {
	if c.aggregate == "COUNT" {
		return len(documents)
	}
	n, sum, low, high := 0, 0.0, math.Inf(1), math.Inf(-1)
	for _, document := range documents {
		v, _ := plain(c.path.in(document))
		if f, ok := v.(float64); ok {
			n, sum, low, high = n+1, sum+f, min(low, f), max(high, f)
		}
	}
	switch {
	case n == 0:
		return nil
	case c.aggregate == "SUM":
		return sum
	case c.aggregate == "AVG":
		return sum / float64(n)
	case c.aggregate == "MIN":
		return low
	}
	return high
}
