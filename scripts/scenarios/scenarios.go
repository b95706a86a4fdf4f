// Package scenarios holds the scenarios that hubhop ships, and the JSON schema of their language.
package scenarios

import "embed"

// Files are the scenarios, <name>.yaml, and schema.json.
//
//go:embed *.yaml schema.json
var Files embed.FS
