package flow

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/hubhop-iot/hubhop/internal/flow/graph"
	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
)

// leftovers says in rows what flows that do not run have left in their journals: those whose
// manifest is gone, by a row of their own, and those that are disabled. known are the names that
// the manifests have.
//
// A directory that holds no message goes when its flow is gone at a start. One of a flow that has
// run in this process stays until then: it knows what the last outputs were named after, and the
// flow may come back within the same minute.
func (m *Manager) leftovers(set *manifest.Set, known map[string]bool, rows map[string]Status) {
	entries, _ := os.ReadDir(filepath.Dir(graphDir(m.o.StateDir, "x"))) // missing: no flow has a journal yet
	before := m.left
	m.left = map[string]int{}
	for _, e := range entries {
		name := e.Name()
		row := rows[name]
		isGone := !known[name] && !set.Partial && len(set.Unread) == 0
		if !e.IsDir() || m.running(name) != nil || !isGone && row.State != Stopped {
			continue
		}
		dir := graphDir(m.o.StateDir, name)
		n, wasSeen := before[name]
		if !wasSeen {
			var err error
			if n, err = graph.Left(dir); err == nil && n == 0 && isGone && !m.ran[name] {
				err = graph.Remove(dir)
			}
			if err != nil {
				m.o.log(true, name, fmt.Sprintf("what the flow has left in %s cannot be seen to: %v", dir, err))
				continue
			}
		}
		m.left[name] = n
		if n == 0 {
			continue
		}
		text := leftText(n, dir, isGone)
		if !wasSeen {
			m.o.log(true, name, text)
		}
		if isGone {
			row = Status{Name: name, State: Stopped, Fault: text, Text: text}
		} else {
			row.Text += "; " + text
		}
		rows[name] = row
	}
}

// leftText says how many messages a flow has left, where they are, and what to do.
func leftText(n int, dir string, isGone bool) string {
	what, messages, todo := "the flow is disabled", "messages that it has taken are", "enable the flow"
	if isGone {
		what, todo = "no manifest has this flow any more", "put the flow back under its name"
	}
	if n == 1 {
		messages = "message that it has taken is"
	}
	return fmt.Sprintf("%s, and %d %s in no result: %s, or remove the directory %s", what, n, messages, todo, dir)
}

// isRemoved says whether the directory of a flow that is gone has been removed.
func (m *Manager) isRemoved(name string) bool {
	_, err := os.Stat(graphDir(m.o.StateDir, name))
	return os.IsNotExist(err)
}
