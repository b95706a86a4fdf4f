package scenario

import (
	"bytes"
	"flag"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write scripts/scenarios/schema.json anew")

// schemaFile is the published schema.
const schemaFile = "../../../scripts/scenarios/schema.json"

func TestThePublishedSchemaIsThatOfTheTypes(t *testing.T) {
	want, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(schemaFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(schemaFile); err != nil || !bytes.Equal(got, want) {
		t.Errorf("scripts/scenarios/schema.json is not what the types say (error %v); go test ./internal/drill/scenario -update writes it", err)
	}
}
