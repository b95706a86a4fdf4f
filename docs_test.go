package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// markdownLink matches an inline link or image: its target is group 1.
var markdownLink = regexp.MustCompile(`\]\(([^()\s]+)\)`)

// markdownCode matches fenced blocks and code spans, where a bracket is no link.
var markdownCode = regexp.MustCompile("(?s)```.*?```|`[^`\n]*`")

// A broken link sends a reader away without the answer, so every relative link between the
// repository's documents must lead to a file, and to a heading of it if it names one.
func TestDocumentLinks(t *testing.T) {
	links := 0
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && path != "." && skippedDir(entry.Name()) {
			return filepath.SkipDir
		}
		if entry.IsDir() || filepath.Ext(path) != ".md" {
			return nil
		}
		for _, target := range linksOf(t, path) {
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			links++
			checkLink(t, path, target)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if links < 20 {
		t.Errorf("found %d relative links: the pattern no longer recognises them", links)
	}
}

// Every document below docs/ must be reachable from README.md, else nobody finds it.
func TestDocumentsReachable(t *testing.T) {
	reached := map[string]bool{"README.md": true}
	for queue := []string{"README.md"}; len(queue) > 0; queue = queue[1:] {
		for _, target := range linksOf(t, queue[0]) {
			file, _, _ := strings.Cut(target, "#")
			next := filepath.Join(filepath.Dir(queue[0]), file)
			if filepath.Ext(file) == ".md" && !strings.Contains(file, "://") && !reached[next] {
				reached[next] = true
				queue = append(queue, next)
			}
		}
	}
	docs, err := filepath.Glob("docs/*.md")
	if err != nil || len(docs) == 0 {
		t.Fatalf("docs/*.md: %v, %v", docs, err)
	}
	for _, doc := range docs {
		if !reached[doc] {
			t.Errorf("%s: no path of links from README.md leads to it; link it under More", doc)
		}
	}
}

// adrHead matches the first lines of an ADR: its number, its date and its status.
var adrHead = regexp.MustCompile(
	`^# ([0-9]+)\. .+\n\nDate: \d{4}-\d{2}-\d{2}[^\n]* · Status: \w+`)

// An ADR is cited by its number, and read by its sections, so each has its own number and all have
// the same sections.
func TestDecisionRecords(t *testing.T) {
	records, err := filepath.Glob("docs/adr/*.md")
	if err != nil || len(records) == 0 {
		t.Fatalf("docs/adr/*.md: %v, %v", records, err)
	}
	numbers := map[string]string{}
	for _, record := range records {
		text := readDocument(t, record)
		number, _, _ := strings.Cut(filepath.Base(record), "-")
		if other := numbers[number]; other != "" {
			t.Errorf("%s has the number of %s; take the next free one", record, other)
		}
		numbers[number] = record
		head := adrHead.FindStringSubmatch(text)
		if head == nil {
			t.Errorf("%s: does not begin with `# N. Title` and `Date: … · Status: …`", record)
		} else if strings.TrimLeft(number, "0") != head[1] {
			t.Errorf("%s: its title has the number %s", record, head[1])
		}
		for _, section := range []string{"Context", "Decision", "Outcome"} {
			if !strings.Contains(text, "\n## "+section+"\n") {
				t.Errorf("%s: has no section `## %s`", record, section)
			}
		}
	}
}

// goFileName matches the name of a Go file in a text, with the directories before it.
var goFileName = regexp.MustCompile(`(?:[a-z0-9_]+/)*[a-z0-9_]+\.go\b`)

// Package comments and documents name the files to read. A file that was renamed leaves a reader
// looking, so each name must be that of a file: beside the Go file that names it, or from the root.
func TestFilesThatAreNamedExist(t *testing.T) {
	names := 0
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && path != "." && skippedDir(entry.Name()) {
			return filepath.SkipDir
		}
		if entry.IsDir() || filepath.Ext(path) != ".md" && filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		for line := range strings.Lines(readDocument(t, path)) {
			if filepath.Ext(path) == ".go" && !strings.Contains(line, "//") {
				continue
			}
			for _, name := range goFileName.FindAllString(line, -1) {
				names++
				_, beside := os.Stat(filepath.Join(filepath.Dir(path), name))
				_, below := os.Stat(name)
				if beside != nil && below != nil {
					t.Errorf("%s names %s, which does not exist", path, name)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if names < 50 {
		t.Errorf("found the names of %d files: the pattern no longer recognises them", names)
	}
}

// go test passes when -run matches nothing. So a test that is renamed would leave its target of the
// Makefile without a test, and nobody would notice.
func TestMakefileRunsTestsThatExist(t *testing.T) {
	names, pattern := 0, regexp.MustCompile(`\./([\w/]+) -run '([^'/]+)`)
	makefile := strings.NewReplacer("$(BENCH)", "./internal/bench", "$$", "$").Replace(readDocument(t, "Makefile"))
	for _, run := range pattern.FindAllStringSubmatch(makefile, -1) {
		tests, dir, want := testsIn(t, run[1]), run[1], run[2]
		whole := strings.HasPrefix(want, "^") && strings.HasSuffix(want, "$")
		for name := range strings.SplitSeq(strings.Trim(want, "^$()"), "|") {
			names++
			if !slices.ContainsFunc(tests, func(test string) bool { return test == name || !whole && strings.Contains(test, name) }) {
				t.Errorf("the Makefile runs %s of %s, and there is no such test", name, dir)
			}
		}
	}
	if names < 12 {
		t.Errorf("found %d names of tests: the pattern no longer recognises them", names)
	}
}

// testFunction matches the beginning of a test in Go: its name is group 1.
var testFunction = regexp.MustCompile(`(?m)^func (Test\w+)\(`)

// testsIn returns the names of the tests in a directory.
func testsIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		for _, m := range testFunction.FindAllStringSubmatch(readDocument(t, file), -1) {
			names = append(names, m[1])
		}
	}
	return names
}

func skippedDir(name string) bool {
	return strings.HasPrefix(name, ".") || name == "node_modules" || name == "testdata"
}

func readDocument(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// linksOf returns the targets of all links of a document, in order.
func linksOf(t *testing.T, path string) []string {
	t.Helper()
	text := markdownCode.ReplaceAllString(readDocument(t, path), "")
	var targets []string
	for _, match := range markdownLink.FindAllStringSubmatch(text, -1) {
		targets = append(targets, match[1])
	}
	return targets
}

func checkLink(t *testing.T, from, target string) {
	t.Helper()
	file, anchor, _ := strings.Cut(target, "#")
	path := from
	if file != "" {
		path = filepath.Join(filepath.Dir(from), file)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("%s links to %s, which is not there", from, target)
		return
	}
	if anchor != "" && filepath.Ext(path) == ".md" && !hasHeading(readDocument(t, path), anchor) {
		t.Errorf("%s links to %s, and %s has no such heading", from, target, path)
	}
}

// notInAnchor matches what GitHub leaves out of a heading's anchor.
var notInAnchor = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)

func hasHeading(text, anchor string) bool {
	for line := range strings.Lines(text) {
		title := strings.TrimLeft(line, "#")
		if title == line {
			continue
		}
		slug := notInAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
		if strings.ReplaceAll(slug, " ", "-") == anchor {
			return true
		}
	}
	return false
}
