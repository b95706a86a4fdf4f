package cmd

import (
	"bytes"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestReadmeListsTheFlagsOfRun: README's table lists the flags that run --help shows, all of them,
// with their defaults.
func TestReadmeListsTheFlagsOfRun(t *testing.T) {
	run, _, err := newRootCommand(&Env{}, nil).Find([]string{"run"})
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(readme(t), "\n## Flags of `run`\n")
	section, _, _ = strings.Cut(section, "\n## ")
	defaults := map[string]string{} // what README says
	for line := range strings.SplitSeq(section, "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 5 {
			continue
		}
		names := inCode.FindAllString(cells[1], -1)
		each := strings.Split(strings.TrimSpace(cells[2]), "; ")
		if len(each) != len(names) {
			each = strings.Split(strings.TrimSpace(cells[2]), ", ")
		}
		for i, name := range names {
			name = strings.Trim(name, "`-")
			if _, twice := defaults[name]; twice {
				t.Errorf("README has --%s twice", name)
			}
			defaults[name] = strings.TrimSpace(cells[2])
			if len(each) == len(names) {
				defaults[name] = each[i]
			}
		}
	}
	run.Flags().VisitAll(func(f *pflag.Flag) {
		said, is := defaults[f.Name]
		delete(defaults, f.Name)
		switch {
		case f.Hidden || f.Name == "help":
		case !is:
			t.Errorf("README's table has no --%s", f.Name)
		case strings.Contains(f.Usage, "(default"): // words, which no test can compare
			if said == "" {
				t.Errorf("README gives no default of --%s, help does: %s", f.Name, f.Usage)
			}
		default:
			want := strings.TrimSuffix(strings.TrimSuffix(f.DefValue, "0s"), "0m")
			if f.DefValue == "false" || f.DefValue == "0s" || f.DefValue == "" {
				if said != "" && said != "off" {
					t.Errorf("README says that --%s has the default %s, and it has none", f.Name, said)
				}
			} else if said != "`"+want+"`" && said != "`"+f.DefValue+"`" {
				t.Errorf("README says that --%s has the default %s, and it is %s", f.Name, said, f.DefValue)
			}
		}
	})
	for name := range defaults {
		t.Errorf("README's table has --%s, and run --help has not", name)
	}
}

// TestReadmeSaysHowLargeTheBinaryIs: the size that README names is right to a megabyte, and the
// binary keeps within 30 MB. Nothing in it looks a method up by a name that the linker does not
// know, as a template does: then each exported method of each type would be in it, which are 5 MB.
func TestReadmeSaysHowLargeTheBinaryIs(t *testing.T) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("README names the size for Linux on amd64")
	}
	said := regexp.MustCompile(`static binary of about (\d+) MB`).FindStringSubmatch(readme(t))
	if said == nil {
		t.Fatal("README does not say how large the binary is")
	}
	// Without -trimpath, which changes the size by little, all but the linking is in the cache.
	binary := filepath.Join(t.TempDir(), "hubhop")
	out, err := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-s -w -dumpdep", "-o", binary, "..").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("main.main -> ")) {
		t.Fatalf("%v\n%.2000s", err, out)
	}
	if found := regexp.MustCompile(`\S+ -> \S+ <ReflectMethod>`).Find(out); found != nil {
		t.Errorf("the linker keeps all methods, because the program reaches %s", found)
	}
	info, err := os.Stat(binary)
	if err != nil {
		t.Fatal(err)
	}
	mb := float64(info.Size()) / 1e6
	if want, _ := strconv.ParseFloat(said[1], 64); math.Abs(mb-want) > 1 || mb > 30 {
		t.Errorf("the binary has %.1f MB; README says about %v MB, and 30 MB are the limit", mb, want)
	}
}

// TestMessagesNameFlagsThatExist: each flag that a sentence of the program names is one that a help
// shows.
func TestMessagesNameFlagsThatExist(t *testing.T) {
	shown, seen := shownAnywhere(newRootCommand(&Env{}, nil)), 0
	for _, f := range []string{"--name", "--central-api-uri", "--central-dns-suffix", "--ttl", "--token"} {
		shown[f] = true // of the Azure CLI
	}
	for _, dir := range []string{
		".", "../internal/device", "../internal/journal", "../failover", "../hub", "../dps", "../telemetry", "../telemetry/outbox", "../model",
		"cli", "../internal/azname", "../internal/central", "../internal/clock", "../internal/configfile", "../internal/drill", "../internal/drill/target", "../internal/drill/play", "../internal/program", "../internal/home", "../internal/mqtt", "../internal/namedfile", "../internal/pemfile",
		"../internal/sample", "../internal/secret", "../telemetry/message", "../telemetry/outbox/audit", "../telemetry/outbox/disk", "../telemetry/outbox/format",
	} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil || len(files) == 0 {
			t.Fatal(dir, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range aFlag.FindAllString(string(b), -1) {
				if seen++; !shown[f] {
					t.Errorf("%s names %s, and no help shows it", file, f)
				}
			}
		}
	}
	if seen < 100 {
		t.Errorf("only %d flags were found", seen)
	}
}

func shownAnywhere(root *cobra.Command) map[string]bool {
	shown := map[string]bool{}
	for _, c := range allCommands(root) {
		c.Flags().VisitAll(func(f *pflag.Flag) { shown["--"+f.Name] = shown["--"+f.Name] || !f.Hidden })
	}
	return shown
}

// TestFlagsInReadmeExist: every flag in README is one that a help shows, and every command exists.
func TestFlagsInReadmeExist(t *testing.T) {
	root := newRootCommand(&Env{}, nil)
	shown := shownAnywhere(root)
	shown["--name"] = true // of the Azure CLI
	text := readme(t)
	flags := aFlag.FindAllString(text, -1)
	if len(flags) < 100 {
		t.Fatalf("only %d flags in README", len(flags))
	}
	for _, f := range flags {
		if !shown[f] {
			t.Errorf("README names %s, and no help shows it", f)
		}
	}
	calls := regexp.MustCompile("(?:`|    |\\$ )hubhop ([a-z]+(?: [a-z]+)?)").FindAllStringSubmatch(text, -1)
	if len(calls) < 15 {
		t.Fatalf("only %d commands in README", len(calls))
	}
	for _, call := range calls {
		if !isCommand(root, call[1]) {
			t.Errorf("README calls hubhop %s, which is no command", call[1])
		}
	}
}

func isCommand(root *cobra.Command, words string) bool {
	c, rest, err := root.Find(strings.Fields(words))
	return err == nil && c != root && (len(rest) == 0 || !c.HasAvailableSubCommands())
}

// TestCommandsInTextsExist reads the pages for browsers, and rooms whose sentences name commands.
func TestCommandsInTextsExist(t *testing.T) {
	root := newRootCommand(&Env{}, nil)
	shown := shownAnywhere(root)
	call := regexp.MustCompile(`hubhop ([a-z]+(?: [a-z]+)?)(?: (--[a-z-]+)|</code>|\))`)
	for _, files := range []string{"../internal/page/assets/*.js", "../internal/page/assets/*.html", "../internal/status/*.go", "../internal/device/*.go"} {
		paths, err := filepath.Glob(files)
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range call.FindAllStringSubmatch(string(text), -1) {
				if found++; !isCommand(root, c[1]) || c[2] != "" && !shown[c[2]] {
					t.Errorf("%s names hubhop %s %s, which is no command", path, c[1], c[2])
				}
			}
		}
		if found == 0 {
			t.Errorf("%s name no command", files)
		}
	}
}

var (
	inCode = regexp.MustCompile("`--[a-z0-9-]+`")
	aFlag  = regexp.MustCompile(`--[a-z][a-z0-9-]+`)
)

func readme(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
