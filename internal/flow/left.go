package flow

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/flow/endpoint/mqtt"
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

// subscriptions is how the name of a file ends in which a source remembers its subscriptions.
const subscriptions = ".subscriptions.json"

func subscriptionsOf(stateDir, flow, source string) string {
	return filepath.Join(graphDir(stateDir, flow), source+subscriptions)
}

// leftSessions warns once of each session that a broker may keep for a source that no manifest has
// any more. A client id has the names of flow and source, so after a new name of either nobody
// takes what waits in that session. known are the names that the manifests have.
func (m *Manager) leftSessions(set *manifest.Set, known map[string]bool) {
	if set.Partial || len(set.Unread) > 0 {
		return // the source may be in what could not be read
	}
	owned, sound := map[string]bool{}, map[string]bool{}
	for _, g := range set.Graphs {
		sound[g.Name] = true
		for i := range g.Sources {
			owned[subscriptionsOf(m.o.StateDir, g.Name, g.Sources[i].Name)] = true
		}
	}
	before := m.owed
	m.owed = map[string]bool{}
	root := filepath.Dir(graphDir(m.o.StateDir, "x"))
	files, _ := fs.Glob(os.DirFS(root), "*/*"+subscriptions) // the pattern is sound
	for _, name := range files {
		file, flow := filepath.Join(root, name), path.Dir(name)
		if owned[file] || known[flow] && !sound[flow] {
			continue
		}
		m.owed[file] = true
		if id, host, err := mqtt.SessionOf(file); err == nil && !before[file] {
			m.o.log(true, flow, fmt.Sprintf("the broker at %s may keep messages for the client id %q, but no manifest has its source %q any more: "+
				"give the flow and the source their names back to get them, or remove %s", host, id, strings.TrimSuffix(path.Base(name), subscriptions), file))
		}
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
