package cloudevents

import (
	"testing"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
)

func TestTheIDOfARepetitionIsThatOfTheFirst(t *testing.T) {
	id := func(of string) string {
		m := node.Message{}
		m.Properties = Set(&node.Message{ID: of}, CreateOrRemap, "e")
		id, _ := m.Get(ID)
		return id
	}
	if first, again := id("x"), id("x"); first != again || first == id("y") {
		t.Error("an id does not follow from that of the message")
	}
	a, b := id(""), id("")
	if a == b || len(a) != 36 || a[14] != '4' || id("x")[14] != '8' {
		t.Error(a, b, id("x"))
	}
}
