package flow

import (
	"fmt"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
)

// label says what a node is.
func label(g *manifest.Graph, name string) (kind, text string) {
	for i := range g.Sources {
		if s := &g.Sources[i]; s.Name == name {
			return "source", s.Endpoint + " " + strings.Join(filtersOf(s), ", ")
		}
	}
	for i := range g.Destinations {
		if d := &g.Destinations[i]; d.Name == name {
			return "destination", d.Endpoint + " " + d.To
		}
	}
	for i := range g.Operators {
		if o := &g.Operators[i]; o.Name == name {
			if o.Native != "" {
				return string(o.Native), ""
			}
			return "modules", artifactOf(o)
		}
	}
	return "", ""
}

// Text draws a flow as lines of text: each node with its client id, and what it leads to. Which
// device runs the flow is open.
func Text(g *manifest.Graph) string {
	var b strings.Builder
	mode := ""
	if !g.Enabled {
		mode = ", disabled"
	}
	fmt.Fprintf(&b, "%s (%s%s)\n", g.Name, g.Kind, mode)
	for _, name := range nodesOf(g) {
		kind, text := label(g, name)
		fmt.Fprintf(&b, "  %s", name)
		if kind != name {
			fmt.Fprintf(&b, " [%s]", kind)
		}
		if text != "" {
			fmt.Fprintf(&b, " %s", text)
		}
		b.WriteString("\n")
		if id := clientID(g, name, "DEVICE"); id != "" {
			fmt.Fprintf(&b, "    client id %s\n", id)
		}
		for i := range g.Connections {
			if c := &g.Connections[i]; c.From == name {
				arm := ""
				if c.Arm != "" {
					arm = string(c.Arm) + " "
				}
				fmt.Fprintf(&b, "    %s→ %s\n", arm, c.To)
			}
		}
	}
	return b.String()
}

// nodesOf returns the names of all nodes, in the order of a message.
func nodesOf(g *manifest.Graph) (names []string) {
	for i := range g.Sources {
		names = append(names, g.Sources[i].Name)
	}
	names = append(names, ordered(g)...)
	for i := range g.Destinations {
		names = append(names, g.Destinations[i].Name)
	}
	return names
}

// Mermaid draws a flow as a diagram of Mermaid, which GitHub and many editors show.
func Mermaid(g *manifest.Graph) string {
	var b strings.Builder
	b.WriteString("graph LR\n")
	ids := map[string]string{}
	for i, name := range nodesOf(g) {
		ids[name] = fmt.Sprintf("n%d", i)
		kind, text := label(g, name)
		if text == "" {
			text = kind
		}
		shape := [2]string{"[", "]"}
		switch kind {
		case "source", "destination":
			shape = [2]string{"([", "])"}
		case "branch":
			shape = [2]string{"{", "}"}
		}
		fmt.Fprintf(&b, "    %s%s\"%s<br>%s\"%s\n", ids[name], shape[0], escaped(name), escaped(text), shape[1])
	}
	for i := range g.Connections {
		c := &g.Connections[i]
		arrow := "-->"
		if c.Arm != "" {
			arrow = "-- " + string(c.Arm) + " -->"
		}
		fmt.Fprintf(&b, "    %s %s %s\n", ids[c.From], arrow, ids[c.To])
	}
	return b.String()
}

// escaped writes a text for a label of Mermaid.
func escaped(text string) string {
	return strings.NewReplacer("&", "#amp;", `"`, "#quot;", "<", "#lt;", ">", "#gt;", "#", "#35;").Replace(text)
}
