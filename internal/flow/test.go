package flow

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/manifest"
	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/internal/flow/transform"
	"github.com/hubhop-iot/hubhop/internal/namedfile"
)

// Tested is what became of a test.
type Tested struct {
	File   string        `json:"file"`
	Name   string        `json:"name"`
	OK     bool          `json:"ok"`
	Text   string        `json:"text"` // why it failed, in several lines; empty if it did not
	Took   time.Duration `json:"-"`
	TookMs int64         `json:"tookMs"`
}

// The topics on which the files of a test come, as in Microsoft's samples.
const (
	topicOfJSON  = "sensors"
	topicOfOther = "snapshot_simulation"
)

const (
	maxTestFile  = 16 << 20 // bytes of a file of a test
	maxTestFiles = 100_000
)

// RunTest runs a file *.test.yaml. registry, which may be empty, is where modules come from.
func RunTest(file string, modules Modules) (r Tested) {
	r = Tested{File: file, Name: filepath.Base(file)}
	began := time.Now()
	err := r.run(modules)
	r.Took = time.Since(began)
	r.TookMs = r.Took.Milliseconds()
	if err != nil {
		r.Text = err.Error()
	}
	r.OK = err == nil
	return r
}

func (r *Tested) run(modules Modules) error {
	text, err := namedfile.Read("test", r.File, maxTestFile)
	if err != nil {
		return err
	}
	test, faults := manifest.ParseTest(r.File, text)
	if err := faultsOf(faults); err != nil {
		return err
	}
	r.Name = test.Name
	base := filepath.Dir(r.File)
	if test.Graph != "" {
		return errors.New("the test runs a graph of WebAssembly modules, and this version of hubhop runs none; flow and dir test a flow of a directory")
	}
	dir := filepath.Join(base, test.Dir)
	set, faults := manifest.Load(dir, manifest.Options{})
	g := set.Graph(test.Flow)
	if g == nil {
		if err := faultsOf(faults); err != nil {
			return err
		}
		return fmt.Errorf("there is no flow %q in %s", test.Flow, dir)
	}
	var got []any
	var drops, said []string
	o := TrialOptions{Dir: dir, Modules: modules, Start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		Out: func(to string, m node.Message) { got = append(got, compared(to, &m)) },
		Drop: func(line int, node, reason string, failed bool) {
			if failed {
				drops = append(drops, fmt.Sprintf("message %d: node %s: %s", line, node, reason))
			}
		},
		Log: func(text string) { said = append(said, text) }}
	if o.Store, err = testStore(filepath.Join(base, test.Input)); err != nil {
		return err
	}
	t, faults := NewTrial(g, o)
	if err := faultsOf(faults); err != nil {
		return err
	}
	if err := feedDir(t, filepath.Join(base, test.Input)); err != nil {
		return err
	}
	t.Close()
	want, err := expectation(filepath.Join(base, test.Expected))
	if err != nil {
		return err
	}
	documents(want, got)
	chosen := test.Select
	if len(chosen) == 0 {
		chosen = []string{"payload"}
	}
	wanted, gotten := pick(want, chosen, test.Ignores), pick(got, chosen, test.Ignores)
	diff := differ(wanted, gotten)
	if diff == "" {
		return uncompared(append(wanted, gotten...), chosen)
	}
	if len(drops) > 0 {
		diff += "\nmessages that failed:\n  " + strings.Join(drops, "\n  ")
	}
	if len(said) > 0 {
		diff += "\nwhat nodes say:\n  " + strings.Join(said, "\n  ")
	}
	return errors.New(diff)
}

// faultsOf returns the errors among faults.
func faultsOf(faults []manifest.Fault) error {
	var all []error
	for _, f := range faults {
		if f.Severity == manifest.Error {
			all = append(all, errors.New(f.String()))
		}
	}
	return errors.Join(all...)
}

// storeFile fills the state store of a test; it stands in the directory of the input or above it.
// Without it the files of the directory of the manifests do.
const storeFile = "statestore.json"

func testStore(input string) (transform.Store, error) {
	for _, dir := range []string{input, filepath.Dir(input)} {
		text, err := namedfile.Read("store", filepath.Join(dir, storeFile), maxTestFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		s, err := ParseStore(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, storeFile), err)
		}
		return s, nil
	}
	return nil, nil //nolint:nilnil // the trial takes the files of the directory
}

// feedDir feeds the files of a directory, sorted by name: a file *.jsonl has messages as flow run
// takes them, and every other file is the payload of one message.
func feedDir(t *Trial, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("the input: %w", err)
	}
	if len(entries) > maxTestFiles {
		return fmt.Errorf("the input has more than %d files", maxTestFiles)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") || e.Name() == storeFile {
			continue
		}
		text, err := namedfile.Read("file of a test", path, maxTestFile)
		if err != nil {
			return err
		}
		if filepath.Ext(e.Name()) != ".jsonl" {
			m := Input{Message: node.Message{Topic: topicOfOther, Payload: text}}
			if filepath.Ext(e.Name()) == ".json" {
				m.Topic = topicOfJSON
			}
			if len(t.Takes(m.Topic)) == 0 { // a flow is not asked to take the topics of the samples
				m.Topic = ""
			}
			if err := t.Feed(m); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			continue
		}
		n := 0
		for l := range bytes.Lines(text) {
			n++
			if l = bytes.TrimSpace(l); len(l) == 0 {
				continue
			}
			m, err := ParseInput(l)
			if err == nil {
				err = t.Feed(m)
			}
			if err != nil {
				return fmt.Errorf("%s:%d: %w", path, n, err)
			}
		}
	}
	return nil
}

// expectation reads what a test wants to come out: a JSON object, an array of them, or objects one
// after the other, as hubhop flow run prints them.
func expectation(path string) (all []any, err error) {
	text, err := namedfile.Read("file of a test", path, maxTestFile)
	if err != nil {
		return nil, fmt.Errorf("the expected messages: %w", err)
	}
	const form = "write a JSON object, an array of them, or a line for each as hubhop flow run prints it"
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	for {
		var v any
		err := dec.Decode(&v)
		if errors.Is(err, io.EOF) && len(all) > 0 {
			break
		}
		line := 1 + bytes.Count(bytes.TrimSpace(text[:dec.InputOffset()]), []byte("\n"))
		if err != nil {
			return nil, fmt.Errorf("%s: after line %d: %w; %s", path, line, err, form)
		}
		list, isList := v.([]any)
		if _, isObject := v.(map[string]any); !isObject && (!isList || len(all) > 0) {
			return nil, fmt.Errorf("%s: line %d is no message; %s", path, line, form)
		}
		if !isList {
			list = []any{v}
		} else if rest := bytes.TrimSpace(text[dec.InputOffset():]); len(rest) > 0 {
			return nil, fmt.Errorf("%s: line %d: something follows the array; %s", path, line, form)
		}
		if all = append(all, list...); isList {
			break
		}
	}
	for i, v := range all {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s: message %d is no JSON object; %s", path, i+1, form)
		}
		complete(m)
	}
	return all, nil
}

// complete gives an expected message the form of [compared]. What a line of hubhop flow run leaves
// out is empty, and its properties are user properties.
func complete(m map[string]any) {
	for key, value := range map[string]any{"contentType": "", "retain": false, "properties": map[string]any{}} {
		if _, ok := m[key]; !ok {
			m[key] = value
		}
	}
	if text, ok := m["payloadText"]; ok {
		m["payload"] = text
	}
	if text, ok := m["payloadBase64"].(string); ok {
		if raw, err := base64.StdEncoding.DecodeString(text); err == nil {
			m["payload"] = string(raw)
		}
	}
	properties, ok := m["properties"].(map[string]any)
	if !ok {
		return
	}
	_, hasUsers := properties[userProperties].(map[string]any)
	_, hasType := properties[contentType]
	if !hasUsers && !hasType {
		users := map[string]any{}
		for key, v := range properties {
			if several, ok := v.([]any); ok && len(several) > 0 {
				v = several[0]
			}
			users[key] = v
		}
		m["properties"] = map[string]any{userProperties: users, contentType: m["contentType"]}
	}
}

// The keys of properties in an expectation of Microsoft's samples.
const (
	userProperties = "user-properties"
	contentType    = "content-type"
)

// document puts the JSON that a payload has in the place of its text.
func document(m map[string]any) {
	if text, ok := m["payload"].(string); ok {
		if doc, err := parse([]byte(text)); err == nil {
			m["payload"] = doc
		}
	}
}

// documents does as document to expected messages, but to none whose text came out: that is of a
// JSON string.
func documents(want, got []any) {
	for i, one := range want {
		m, _ := one.(map[string]any) // it is one, see expectation
		if i < len(got) {
			if came, ok := at(got[i], []string{"payload"}); ok && reflect.DeepEqual(came, m["payload"]) {
				continue
			}
		}
		document(m)
	}
}

// parse reads JSON with its numbers as they are written.
func parse(text []byte) (v any, err error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) { // More takes a closing bracket for the end
		return nil, errors.New("something follows the JSON")
	}
	return v, nil
}

// compared returns a message that came out at a destination in the form of an expectation.
func compared(to string, m *node.Message) map[string]any {
	users := map[string]any{}
	for _, p := range m.Properties {
		if _, ok := users[p.Key]; !ok {
			users[p.Key] = p.Value
		}
	}
	c := map[string]any{"destination": to, "topic": m.Topic, "payload": string(m.Payload), "contentType": m.ContentType,
		"retain": m.Retain, "properties": map[string]any{userProperties: users, contentType: m.ContentType}}
	document(c)
	return c
}

// steps are the keys that lead to what a path of a test names. The name of a user property may have
// dots, and need not have user-properties in front.
func steps(path string) []string {
	if root, rest, _ := strings.Cut(path, "."); root == "properties" && rest != "" {
		first, name, _ := strings.Cut(rest, ".")
		switch {
		case first == contentType && name == "", first == userProperties && name == "":
			return []string{root, rest}
		case first == userProperties:
			rest = name
		}
		return []string{root, userProperties, rest}
	}
	return strings.Split(path, ".")
}

// pick returns what of messages is compared.
func pick(all []any, chosen, ignored []string) (out []map[string]any) {
	for _, one := range all {
		for _, path := range ignored {
			remove(one, steps(path))
		}
		picked := map[string]any{}
		for _, path := range chosen {
			if v, ok := at(one, steps(path)); ok {
				picked[path] = v
			}
		}
		out = append(out, picked)
	}
	return out
}

// uncompared is the error of a chosen path that no message has, expected or come out: nothing was
// compared there.
func uncompared(all []map[string]any, chosen []string) error {
	for _, path := range chosen {
		if len(all) > 0 && !slices.ContainsFunc(all, func(m map[string]any) bool { _, ok := m[path]; return ok }) {
			return fmt.Errorf("select: no message has %s, neither one that is expected nor one that came out, so it compares nothing; mend the path, or remove it", path)
		}
	}
	return nil
}

// at returns the value at a path.
func at(v any, path []string) (any, bool) {
	for _, key := range path {
		object, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = object[key]; !ok {
			return nil, false
		}
	}
	return v, true
}

func remove(v any, path []string) {
	for len(path) > 1 {
		object, _ := v.(map[string]any)
		v, path = object[path[0]], path[1:]
	}
	if object, ok := v.(map[string]any); ok {
		delete(object, path[0])
	}
}

// differ says how two lists of messages differ; empty: they do not.
func differ(want, got []map[string]any) string {
	if len(want) == len(got) && (len(want) == 0 || reflect.DeepEqual(want, got)) {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s expected, and %d came out", expected(len(want)), len(got))
	show := func(sign string, m map[string]any) {
		text, _ := json.Marshal(m) // it was JSON before
		for _, l := range slices.Collect(strings.SplitSeq(string(text), "\n")) {
			fmt.Fprintf(&b, "\n%s %s", sign, l)
		}
	}
	const most = 20
	shown := 0
	for i := range max(len(want), len(got)) {
		if i < len(want) && i < len(got) && reflect.DeepEqual(want[i], got[i]) {
			continue
		}
		if shown++; shown > most {
			b.WriteString("\n…")
			break
		}
		if i < len(want) {
			show("-", want[i])
		}
		if i < len(got) {
			show("+", got[i])
		}
	}
	return b.String()
}

func expected(n int) string {
	switch n {
	case 0:
		return "no message is"
	case 1:
		return "1 message is"
	}
	return fmt.Sprintf("%d messages are", n)
}

// onWindows says that file modes mean nothing here.
var onWindows = runtime.GOOS == "windows"
