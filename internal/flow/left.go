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

// leftover is what a flow that does not run has left, and what a person is told of it.
type leftover struct {
	graph.Leftover
	err  error  // it could not be looked at or removed, and is tried again
	told string // the last text in the log
	text string // of the status; empty: there is nothing to say
}

// leftovers finds what flows that do not run have left in their journals: those whose manifest is
// gone, and those that are disabled. known are the names that the manifests have. A text that is
// new is logged.
//
// A directory goes when its flow is gone at a start, and nothing is in it. One of a flow that has
// run in this process stays until then: it knows what the last outputs were named after, and the
// flow may come back within the same minute.
func (m *Manager) leftovers(set *manifest.Set, known map[string]bool, rows map[string]Status) map[string]leftover {
	entries, _ := os.ReadDir(filepath.Dir(graphDir(m.o.StateDir, "x"))) // missing: no flow has a journal yet
	left := map[string]leftover{}
	for _, e := range entries {
		name := e.Name()
		if !e.IsDir() || m.running(name) != nil {
			continue
		}
		l, wasSeen := m.left[name]
		l.text = ""
		isGone := !known[name] && !set.Partial && len(set.Unread) == 0
		if !isGone && rows[name].State != Stopped { // what is to become of it is not known
			if wasSeen {
				left[name] = l
			}
			continue
		}
		dir := graphDir(m.o.StateDir, name)
		if !wasSeen || l.err != nil {
			l.Leftover, l.err = graph.Left(dir)
		}
		if l.err == nil && l.Empty && isGone && !m.ran[name] {
			if l.err = graph.Remove(dir); l.err == nil {
				continue
			}
		}
		if l.text = l.say(dir, isGone); l.text != "" && l.text != l.told {
			m.o.log(true, name, l.text)
			l.told = l.text
		}
		left[name] = l
	}
	return left
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
		isUnknown := known[flow] && !sound[flow]
		if owned[file] || isUnknown && !before[file] {
			continue
		}
		m.owed[file] = true
		if id, host, err := mqtt.SessionOf(file); err == nil && !before[file] {
			m.o.log(true, flow, fmt.Sprintf("the broker at %s may keep messages for the client id %q, but no manifest has its source %q any more: "+
				"give the flow and the source their names back to get them, or remove %s", host, id, strings.TrimSuffix(path.Base(name), subscriptions), file))
		}
	}
}

// say says what a flow has left, where that is, and what to do; empty: there is nothing to say.
func (l *leftover) say(dir string, isGone bool) string {
	what, todo := "the flow is disabled", "enable the flow"
	if isGone {
		what, todo = "no manifest has this flow any more", "put the flow back under its name"
	}
	var of []string
	if l.Messages > 0 {
		messages := "messages that it has taken are"
		if l.Messages == 1 {
			messages = "message that it has taken is"
		}
		of = append(of, fmt.Sprintf("%d %s in no result", l.Messages, messages))
	}
	if l.Opaque {
		of = append(of, "its checkpoint, which may hold messages, cannot be read without the flow")
	}
	switch {
	case l.err != nil:
		return fmt.Sprintf("%s, and what it has left cannot be seen to: %v; see to the disk, or remove the directory %s", what, l.err, dir)
	case len(of) == 0:
		return ""
	}
	return fmt.Sprintf("%s, and %s: %s, or remove the directory %s", what, strings.Join(of, ", and "), todo, dir)
}

// addLeft adds to the rows what flows that do not run have left. For one without a row that is a
// fault, as it is if nobody can look at it.
func (m *Manager) addLeft(rows map[string]Status, left map[string]leftover) {
	for name, l := range left {
		if l.text == "" || m.isRemoved(name) {
			continue
		}
		row, hasRow := rows[name]
		if !hasRow {
			row = Status{Name: name, State: Stopped}
		}
		if !hasRow || l.err != nil {
			row.Fault = l.text
		}
		row.Text = strings.Join(distinct(row.Text, l.text), "; ")
		rows[name] = row
	}
}

// isRemoved says whether somebody has removed the directory of a flow.
func (m *Manager) isRemoved(name string) bool {
	_, err := os.Stat(graphDir(m.o.StateDir, name))
	return os.IsNotExist(err)
}
