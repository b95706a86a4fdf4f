package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// gallery is the checklist of defects found in the published samples and in the libraries for this
// job. Each names the tests that fail if it existed here, or says why it cannot.
var gallery = []struct {
	defect string
	tests  string // names, separated by spaces
	cannot string
}{
	// The published samples.
	{"C: keys with stray semicolons do not compile", "TestUnusableKeysAreRefusedWithoutTheirContent", "keys are configuration"},
	{"C: HMAC key length hard-coded to 64", "TestDerivedKeyIsThatOfTheDocumentation", ""},
	{"C: crash on a message without method-name", "TestHandlerThatFailsStopsNothing", ""},
	{"C: response buffer of 128 bytes", "TestLargePayloads", ""},
	{"C: unterminated payload parsed as text", "TestMethodsAreAnswered FuzzInboundTopic", ""},
	{"C: registration loop without bound", "TestStuckRegistrationEnds TestDPSInTrouble", ""},
	{"C: each failover leaks the old connection and its queue", "TestFailoversLeakNothing", ""},
	{"C, C#, Python: desired changes made while offline are lost", "TestDesiredChangesWhileAway", ""},
	{"C: every disconnect, token renewal included, is a failover", "TestTokenRenewal", ""},
	{"C: DPS is hammered while the new hub refuses", "TestNewHubRefusesAtFirst TestDeadHubThatDPSStandsByIsAwaited", ""},
	{"C#: an exception in the status callback ends the process", "TestHandlerThatFailsStopsNothing TestDPSInTrouble", ""},
	{"C#: content encoding System.Text.UTF8Encoding", "TestMessageProperties", ""},
	{"C#: messages are never completed and come again until they are dead", "TestHandlerThatFailsStopsNothing TestEachPathCanBeTurnedOff", ""},
	{"C#: telemetry stops for ever if a send was under way", "TestDeviceIsSoonOnTheHubThatDPSNames", ""},
	{"Java: intervals are not what they say", "TestIntervalsAreWhatTheySay", ""},
	{"Java: a fixed ten seconds of waiting inside DPS", "TestRetryAfterIsHonouredExactly", ""},
	{"Java: a failed attempt leaves a zombie", "TestKnownHubServesWhileDPSIsDown TestDPSInTrouble", ""},
	{"JS: numbers sent as text", "TestMessageProperties TestSimulatedRoom", ""},
	{"JS: only the first key of a desired patch is acknowledged", "TestEveryDesiredKeyIsAcknowledged", ""},
	{"JS: 240 s of retries on a dead hub after a polite close", "TestDeviceIsSoonOnTheHubThatDPSNames", ""},
	{"JS: a failure of the first connection is called unauthorised", "TestEachErrorHasItsSignal", ""},
	{"TS: the device key in the log", "TestScripts", ""},
	{"TS: a fixed 90 s before asking DPS", "TestDeviceFollowsThePublishedStory", ""},
	{"TS: a connection string from the environment pins the hub for ever", "TestOnePinnedHub TestScripts", ""},
	{"Python: the first DPS error ends the program with a TypeError", "TestDPSInTrouble TestWrongKeyNeverStopsADevice", ""},
	{"Python: three attempts without delay, then exit", "TestDeadHubThatDPSStandsByIsAwaited TestBlockedDeviceKeepsItsAssignment TestMachineDoesWhatItsTranscriptsSay", ""},
	{"Python: only timeouts are caught in the send loops", "TestEachErrorHasItsSignal TestMachineDoesWhatItsTranscriptsSay", ""},
	{"Python: the exit path crashes after a failed reconnect", "TestStopDuringAnOutageKeepsWhatWaits", ""},
	{"all: nothing is produced while there is no link", "TestDeviceIsSoonOnTheHubThatDPSNames TestStopDuringAnOutageKeepsWhatWaits", ""},
	{"all: a black hole is found by the keep-alive, in minutes", "TestBlackHoleIsFoundInTwoSeconds TestIdleSessionIsTestedAfterTheKeepAlive", ""},
	{"all: no cache, every start asks DPS", "TestRestartUsesTheCachedHub", ""},
	{"all: two disconnects close together start two recoveries", "TestMachineDoesWhatItsTranscriptsSay TestFlapping", ""},
	{"all: late events of the old client tear down the new connection", "TestMachineDoesWhatItsTranscriptsSay TestFlapping", ""},

	// amenzhinsky/iothub.
	{"1: a method's answer waits for PUBACK inside the callback: deadlock", "TestMethodsAreAnswered", ""},
	{"2: scalar and empty payloads are refused, unknown methods not answered", "TestMethodsAreAnswered", ""},
	{"3: properties decoded twice, messages without system properties lost", "TestPropertyBagsAreReadWithoutAMap TestInboundTopicsAreSortedAndBounded", ""},
	{"4: unread messages block telemetry", "TestUnreadMessagesBlockNothing", ""},
	{"5: desired changes out of order", "TestBurstsOfDesiredChanges", ""},
	{"6: a failed subscription is never noticed", "TestRefusedSubscriptionEndsTheAttempt", ""},
	{"7: subscriptions are not renewed after a reconnect", "TestEveryPathLivesOnAfterReconnects", ""},
	{"8: false acknowledgements on reconnect; sessions thrown away", "TestOnlyTheRealPubackCompletes TestNothingIsAcknowledgedBeforeThePuback TestUnwantedPathsAreGivenBack", ""},
	{"9: tokens are renewed only when the hub hangs up", "TestTokenRenewal TestExpiredTokenIsNamed", ""},
	{"10: user name without ?, token for the whole hub", "TestConnectIsThatOfTheDocumentation TestTokenIsForTheDeviceAndTellsItsEnd", ""},
	{"11: pinned roots, most of them expired", "", "the system's roots are used, with --ca-file beside them; no root is in the source"},
	{"12: a goroutine polls for every publish", "TestMessageInFlightCostsNoGoroutine", ""},
	{"13: a lock held while waiting for SUBACK; panics on closed channels; prints", "TestSequentialWaitsForEachAnswer TestFlapping", ""},
	{"14: untyped errors, no event for a lost connection", "TestEachErrorHasItsSignal TestRefusalKeepsItsCode TestCloseBeforeConnackSaysWhetherMoreWasSent", ""},
	{"15: verification switched off as a fallback", "TestNobodySkipsVerification TestHubWithAForeignCertificateIsNotBelieved", ""},
	{"16: no content type and encoding", "TestMessageProperties", ""},
	{"17: a user's property named $.mid replaces the message id", "TestDrainSendsWhatTheWireNeeds", ""},
}

// testName matches the name of a test within a sentence.
var testName = regexp.MustCompile(`\bTest[A-Z]\w+`)

// TestGallery holds the checklist to the tests that there are.
func TestGallery(t *testing.T) {
	there := map[string]bool{}
	err := filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "dist") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(b, -1) {
			there[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range gallery {
		names := strings.Fields(g.tests)
		if len(names) == 0 && g.cannot == "" {
			t.Errorf("%s: neither a test nor a reason", g.defect)
		}
		for _, name := range append(names, testName.FindAllString(g.cannot, -1)...) {
			if !there[name] {
				t.Errorf("%s: there is no %s", g.defect, name)
			}
		}
	}
}
