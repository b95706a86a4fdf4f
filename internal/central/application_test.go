package central

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// served is an Application whose server answers as told, and what that server was asked.
func served(t *testing.T, answer http.HandlerFunc) (a *Application, asked *[]string) {
	asked = new([]string)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		*asked = append(*asked, r.Method+" "+r.URL.EscapedPath()+" "+string(b))
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	return &Application{Host: strings.TrimPrefix(server.URL, "https://"), Token: "SharedAccessSignature x", Client: server.Client()}, asked
}

// TestMovesAreThoseOfTheAzureCLI: the same requests, so that the same service accepts them.
func TestMovesAreThoseOfTheAzureCLI(t *testing.T) {
	a, asked := served(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "SharedAccessSignature x" {
			t.Errorf("Authorization is %q", r.Header.Get("Authorization"))
		}
		if has := r.Header.Get("Content-Type") != ""; has != (r.ContentLength > 0) {
			t.Errorf("%s has Content-Type %q", r.URL, r.Header.Get("Content-Type"))
		}
		_ = json.NewEncoder(w).Encode(Answer{"ab", "moved"})
	})
	for _, move := range []func() (Answer, error){
		func() (Answer, error) { return a.Failover(t.Context(), "a/b", 0) },
		func() (Answer, error) { return a.Failover(t.Context(), "d", 10*time.Minute) },
		func() (Answer, error) { return a.Failback(t.Context(), "d") },
	} {
		if answer, err := move(); err != nil || answer != (Answer{"ab", "moved"}) {
			t.Errorf("%+v %v", answer, err)
		}
	}
	want := []string{
		"POST /system/iothub/devices/a%2Fb/manual-failover {}",
		`POST /system/iothub/devices/d/manual-failover {"ttl":10}`,
		"POST /system/iothub/devices/d/manual-failback ",
	}
	if strings.Join(*asked, "\n") != strings.Join(want, "\n") {
		t.Errorf("asked %q", *asked)
	}
}

// TestRequestsAreRepeatedOnlyWhenTheServiceSaysSo: a move that is sent twice could move the device
// twice.
func TestRequestsAreRepeatedOnlyWhenTheServiceSaysSo(t *testing.T) {
	for _, x := range []struct {
		name, retryAfter string
		status, tries    int
	}{
		{"throttled with a time", "0", 429, maxTries},
		{"busy with a time", "0", 503, maxTries},
		{"busy with a date", "Mon, 02 Jan 2006 15:04:05 GMT", 503, maxTries},
		{"busy without a time", "", 503, 1},
		{"busy for an hour", "3600", 503, 1},
		{"busy with nonsense", "soon", 503, 1},
		{"broken with a time", "0", 500, 1},
		{"refused with a time", "0", 401, 1},
	} {
		t.Run(x.name, func(t *testing.T) {
			a, asked := served(t, func(w http.ResponseWriter, _ *http.Request) {
				if x.retryAfter != "" {
					w.Header().Set("Retry-After", x.retryAfter)
				}
				w.WriteHeader(x.status)
			})
			waits := 0
			a.Waiting = func(time.Duration, error) { waits++ }
			_, err := a.Failover(t.Context(), "d", 0)
			if e, ok := errors.AsType[*Error](err); !ok || e.Status != x.status || len(*asked) != x.tries || waits != x.tries-1 {
				t.Errorf("%d requests, %d waits, %v", len(*asked), waits, err)
			}
			if errors.Is(err, ErrRefused) != (x.status == 401) {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

// TestAnswersThatAreNone: what is no answer of IoT Central is no success, and its text cannot break
// the line of an error.
func TestAnswersThatAreNone(t *testing.T) {
	for _, x := range []struct{ name, body, want string }{
		{"a page", "<html>\n\x1b[2Jlog in", `is 127.0.0.1`},
		{"an error with 200", `{"error":{"code":"Gone","message":"no\nhub\u001b"}}`, "IoT Central answers 200 Gone: no hub "},
		{"an error with a number and 200", `{"error":{"code":40401,"message":"no such device"}}`, "IoT Central answers 200 40401: no such device"},
		{"an error that is a text", `{"error":"no such device"}`, "IoT Central answers 200: no such device"},
		{"an error code and 200", `{"errorCode":404001,"trackingId":"t","message":"no such device"}`, "IoT Central answers 200 404001: no such device"},
		{"an error without words", `{"error":{}}`, "IoT Central answers 200"},
		{"something long", `"` + strings.Repeat("x", 10_000), "not the JSON asked for"},
	} {
		t.Run(x.name, func(t *testing.T) {
			a, _ := served(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, x.body) })
			_, err := a.Failback(t.Context(), "d")
			if err == nil || !strings.Contains(err.Error(), x.want) || len(err.Error()) > 600 || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("%v", err)
			}
		})
	}
	a, _ := served(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	if _, err := a.Failback(t.Context(), "d"); err != nil {
		t.Errorf("204: %v", err)
	}
	a, _ = served(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"error":null,"errorCode":0,"message":"moved"}`)
	})
	if answer, err := a.Failback(t.Context(), "d"); err != nil || answer.Message != "moved" {
		t.Errorf("an error that is null: %+v, %v", answer, err)
	}
	a, _ = served(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	if _, err := a.Failover(t.Context(), "d", 0); err == nil || !strings.Contains(err.Error(), "it is not known whether the device was moved") {
		t.Errorf("a broken connection: %v", err)
	}
}

// TestARedirectionIsNotFollowed: the token would go to whatever address the answer names, and what
// answers there would count as a move that was accepted.
func TestARedirectionIsNotFollowed(t *testing.T) {
	elsewhere := make(chan string, 10)
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		elsewhere <- r.Method + " " + r.Header.Get("Authorization")
	}))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		a, asked := served(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, status) })
		_, err := a.Failover(t.Context(), "d", 0)
		if e, ok := errors.AsType[*Error](err); !ok || e.Status != status || len(*asked) != 1 || !strings.Contains(err.Error(), "another address") {
			t.Errorf("%d: %d requests, %v", status, len(*asked), err)
		}
	}
	select {
	case got := <-elsewhere:
		t.Errorf("the other address was asked: %s", got)
	default:
	}
}

// TestToolThatSaysMuchCostsLittle: exec copies the output of a program by io.Copy, which prefers a
// ReadFrom to Write.
func TestToolThatSaysMuchCostsLittle(t *testing.T) {
	for name, pieces := range map[string][]string{
		"at once":   {strings.Repeat("x", 3*maxAnswer) + "end"},
		"by and by": {strings.Repeat("x", maxAnswer), strings.Repeat("y", maxAnswer-1), "end"},
	} {
		t.Run(name, func(t *testing.T) {
			var kept tail
			for _, piece := range pieces {
				said := struct{ io.Reader }{strings.NewReader(piece)}
				if n, err := io.Copy(&kept, said); n != int64(len(piece)) || err != nil {
					t.Fatalf("%d of %d bytes, %v", n, len(piece), err)
				}
			}
			if got := kept.kept.String(); len(got) != maxAnswer || !strings.HasSuffix(got, "end") {
				t.Errorf("%d bytes are kept of a program that says much, and %d may be; the last are %q", len(got), maxAnswer, got[len(got)-3:])
			}
		})
	}
}

// TestTokens: a token is taken as people have it, and what is none is refused before it is sent.
func TestTokens(t *testing.T) {
	for text, want := range map[string]string{
		" SharedAccessSignature sr=a&sig=b\n": "SharedAccessSignature sr=a&sig=b",
		"Bearer abc":                          "Bearer abc",
		"eyJ0.eyJ1.sig":                       "Bearer eyJ0.eyJ1.sig",
		"":                                    "",
		"secret":                              "",
		"SharedAccessSignature a\nb":          "",
		"Bearer \u00e9":                       "",
	} {
		if got, err := CheckToken(text); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q %v", text, got, err)
		}
	}
}

// watched is a Watch whose answers come from a list.
type watched struct {
	places []Place
	err    error // of each question, once the list is at its end
}

func (w *watched) Where(context.Context, string) (Place, error) {
	if len(w.places) == 0 {
		return Place{}, w.err
	}
	p := w.places[0]
	w.places = w.places[1:]
	return p, nil
}

func (w *watched) Changed(ctx context.Context) error {
	if len(w.places) == 0 {
		<-ctx.Done()
	}
	return ctx.Err()
}

// TestFollowWaitsForALinkToAnotherHub: an assignment without a link is not enough, nor is the old
// hub.
func TestFollowWaitsForALinkToAnotherHub(t *testing.T) {
	w := &watched{places: []Place{{"a", true}, {"a", false}, {"b", false}, {"b", true}}}
	if hub, err := Follow(t.Context(), w, "d", "a"); hub != "b" || err != nil || len(w.places) != 0 {
		t.Errorf("%q %v", hub, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	w = &watched{places: []Place{{"a", true}}, err: errors.New("nobody answers")}
	if _, err := Follow(ctx, w, "d", "a"); !errors.Is(err, ErrNotSeen) {
		t.Errorf("%v", err)
	}
	w = &watched{places: []Place{{"a", true}}}
	w.places[0].Connected = false
	ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := Follow(ctx, w, "d", ""); !errors.Is(err, ErrNotSeen) {
		t.Errorf("%v", err)
	}
}
