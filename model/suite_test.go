package model

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// suiteCase is one case of Microsoft's public suite for DTDL.
type suiteCase struct {
	file    string
	index   int
	Valid   bool
	Options []string
	Input   []json.RawMessage
}

// text puts the documents of a case, each an object or a list of them, into one file.
func (c suiteCase) text() []byte {
	var parts [][]byte
	for _, d := range c.Input {
		d = bytes.TrimSpace(d)
		if d[0] == '[' {
			d = bytes.TrimSpace(d[1 : len(d)-1])
		}
		if len(d) > 0 {
			parts = append(parts, d)
		}
	}
	return append(append([]byte("["), bytes.Join(parts, []byte(","))...), ']')
}

// suite reads the cases of one version of the language.
func suite(t *testing.T, version string) []suiteCase {
	t.Helper()
	root := os.Getenv("DTDL_SUITE")
	if root == "" {
		t.Skip("DTDL_SUITE is not set; it names the folder DTDL of a clone of github.com/Azure/opendigitaltwins-dtdl, " +
			"whose cases are not part of this repository. TestEverySpellingMeansTheSame and TestEveryBrokenRuleIsAFlaw hold cases of our own for each kind")
	}
	files, err := filepath.Glob(filepath.Join(root, version, "spec", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("there is no suite under %s: %v", root, err)
	}
	var all []suiteCase
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var cases []suiteCase
		if err := json.Unmarshal(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), &cases); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for i := range cases {
			cases[i].file, cases[i].index = strings.TrimSuffix(filepath.Base(file), ".json"), i
		}
		all = append(all, cases...)
	}
	return all
}

// TestLegalCasesOfTheSuiteAreRead: every legal case of Microsoft's suite can be read.
func TestLegalCasesOfTheSuiteAreRead(t *testing.T) {
	for version, least := range map[string]int{"v2": 1635, "v3": 1628} {
		t.Run(version, func(t *testing.T) {
			legal := 0
			for _, c := range suite(t, version) {
				if !c.Valid {
					continue
				}
				legal++
				if _, err := Parse(c.text()); err != nil {
					t.Errorf("%s %d: %v", c.file, c.index, err)
				}
			}
			if legal < least {
				t.Errorf("%d legal cases, want at least %d", legal, least)
			}
			t.Logf("%d legal cases are read", legal)
		})
	}
}

// TestPublishedModelsAreReadAndHaveNoFlaw: every model that vendors have published can be read,
// with the Interfaces that it refers to. All were checked when they were published, so none has a
// flaw.
func TestPublishedModelsAreReadAndHaveNoFlaw(t *testing.T) {
	root := os.Getenv("DTDL_MODELS")
	if root == "" {
		t.Skip("DTDL_MODELS is not set; it names a clone of github.com/Azure/iot-plugandplay-models, which is not part of this repository")
	}
	reference := regexp.MustCompile(`"(dtmi:[A-Za-z0-9_:]+;[0-9]+)"`)
	read := 0
	err := filepath.WalkDir(filepath.Join(root, "dtmi"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Ext(path) != ".json" {
			return err
		}
		have := map[string]bool{}
		var parts [][]byte
		var add func(path string)
		add = func(path string) {
			data, err := os.ReadFile(path)
			if err != nil || have[path] { // the @id of a schema has no file
				return
			}
			have[path] = true
			parts = append(parts, bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")))
			for _, m := range reference.FindAllSubmatch(data, -1) {
				id := strings.ToLower(string(m[1]))
				add(filepath.Join(root, strings.NewReplacer(":", "/", ";", "-").Replace(id)+".json"))
			}
		}
		add(path)
		file := append(append([]byte("["), bytes.Join(parts, []byte(","))...), ']')
		if _, err := Parse(file); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		for _, f := range Flaws(file) {
			t.Errorf("%s has a flaw: %v", path, f.At)
		}
		read++
		return nil
	})
	if err != nil || read == 0 {
		t.Fatalf("%d files read: %v", read, err)
	}
	t.Logf("%d models are read", read)
}

// strictly says whether a case is refused when every flaw counts. An extension that nobody here
// knows is no flaw where the case allows it.
func strictly(c suiteCase) (refused bool, why string) {
	if _, err := Parse(c.text()); err != nil {
		return true, err.Error()
	}
	for _, f := range Flaws(c.text()) {
		if f.Unchecked && slices.Contains(c.Options, "AllowUndefinedExtensions") {
			continue
		}
		return true, f.At.Error()
	}
	return false, ""
}

// TestIllegalCasesOfTheSuiteAreRefused: at least 95 in 100 of the illegal cases are refused, and
// none of the legal ones.
func TestIllegalCasesOfTheSuiteAreRefused(t *testing.T) {
	for version, illegal := range map[string]int{"v2": 4989, "v3": 5132} {
		t.Run(version, func(t *testing.T) {
			count, refused, missed := 0, 0, map[string]int{}
			for _, c := range suite(t, version) {
				no, why := strictly(c)
				switch {
				case c.Valid && no:
					t.Errorf("%s %d is legal, and refused: %s", c.file, c.index, why)
				case c.Valid:
				case no:
					count, refused = count+1, refused+1
				default:
					count++
					missed[fmt.Sprint(c.file, " ", c.index)]++
				}
			}
			if count < illegal || refused < count*95/100 {
				t.Errorf("%d of %d illegal cases are refused, want 95 in 100 of at least %d", refused, count, illegal)
			}
			t.Logf("%d of %d illegal cases are refused; not refused: %v", refused, count, missed)
		})
	}
}
