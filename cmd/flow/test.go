package flow

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hubhop-iot/hubhop/internal/flow"
)

func newTest(e *Env) *cobra.Command {
	var asJSON bool
	var junit, registry string
	c := &cobra.Command{
		Use:   "test PATH…",
		Short: "Run the tests of data flows",
		Long: `Test runs files *.test.yaml, and those in directories. A test names a flow and its directory, a directory with messages, and a file with
what should come out:

    name: hot rooms ring                  # for people
    flow: alarms                          # a data flow graph or a data flow …
    dir: ..                               # … of this directory
    input: hot                            # a directory with the messages
    expected: hot.json                    # {"topic": …, "payload": …}, an array of them, or lines as hubhop flow run prints them
    select: [topic, payload]              # what is compared; payload if it is missing
    ignores: [payload.at]                 # what is not

What is compared begins with payload, topic, destination, contentType, retain or properties, such as payload.temperature or properties.priority. A
test fails if no message has what it selects.

Paths are relative to the file. In the directory with the messages a file *.jsonl has lines as hubhop flow run takes them. Each other file is the
payload of one message without a topic; write a file *.jsonl if the topic matters. What comes out is compared in its order. Numbers are compared as
they are written: 95 is not 95.0. A state store is filled from statestore.json in or above the input, else from
the files store/KEY of the directory of the flow. Tests of Azure IoT Operations have the key
graph instead of flow and dir, which names a graph definition; they need WebAssembly modules.` + "\n" + e.Help + `
Of this command: 3 a test failed.`,
		Example: `  hubhop flow test examples/flows
  hubhop flow test flows/alarms.test.yaml --junit junit.xml`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if registry != "" {
				return e.Usage(errors.New("registry is for tests of graph definitions, and this version of hubhop runs no WebAssembly modules; test a flow with flow and dir"))
			}
			return e.test(args, asJSON, junit)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	c.Flags().StringVar(&junit, "junit", "", "also write the result to this file, as JUnit's XML")
	c.Flags().StringVar(&registry, "registry", "", "where the modules of graph definitions come from (default: the directory of the graph definition)")
	return c
}

func (e *Env) test(paths []string, asJSON bool, junit string) error {
	files, err := testFiles(paths)
	if err != nil {
		return e.Usage(err)
	}
	results, failed := []flow.Tested{}, 0
	for _, file := range files {
		r := flow.RunTest(file, nil)
		results = append(results, r)
		if !r.OK {
			failed++
		}
		if asJSON {
			continue
		}
		word := "ok  "
		if !r.OK {
			word = "FAIL"
		}
		fmt.Fprintf(e.Stdout, "%s  %s: %s\n", word, e.Clean(r.File), e.Clean(r.Name))
		for line := range strings.Lines(r.Text) {
			fmt.Fprintf(e.Stdout, "      %s\n", e.Clean(strings.TrimSuffix(line, "\n")))
		}
	}
	if asJSON {
		err = e.printJSON(struct {
			OK    bool          `json:"ok"`
			Tests []flow.Tested `json:"tests"`
		}{failed == 0, results})
	}
	if junit != "" {
		err = errors.Join(err, writeJUnit(junit, results, failed))
	}
	if err == nil && failed > 0 {
		err = fmt.Errorf("%w: %d of %d", ErrFailed, failed, len(results))
	}
	return err
}

// testFiles returns the tests that paths name, each once.
func testFiles(paths []string) (files []string, err error) {
	for _, path := range paths {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no file or directory %s; name a file *.test.yaml, or a directory that has some", path)
		}
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			files = append(files, path)
			continue
		}
		err = filepath.WalkDir(path, func(at string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && (strings.HasSuffix(at, ".test.yaml") || strings.HasSuffix(at, ".test.yml")) {
				files = append(files, at)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: there is no file *.test.yaml", strings.Join(paths, ", "))
	}
	slices.Sort(files)
	return slices.Compact(files), nil
}

type junitSuite struct {
	XMLName  xml.Name    `xml:"testsuite"`
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Name    string        `xml:"name,attr"`
	Class   string        `xml:"classname,attr"`
	Seconds float64       `xml:"time,attr"`
	Failure *junitFailure `xml:"failure"`
}

type junitFailure struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// writeJUnit writes what became of tests as JUnit's XML.
func writeJUnit(path string, results []flow.Tested, failed int) error {
	s := junitSuite{Name: "hubhop flow test", Tests: len(results), Failures: failed}
	for _, r := range results {
		c := junitCase{Name: r.Name, Class: r.File, Seconds: r.Took.Seconds()}
		if !r.OK {
			first, _, _ := strings.Cut(r.Text, "\n")
			c.Failure = &junitFailure{first, r.Text}
		}
		s.Cases = append(s.Cases, c)
	}
	b, err := xml.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append([]byte(xml.Header), append(b, '\n')...), 0o644) //nolint:gosec // everybody may read a result
}
