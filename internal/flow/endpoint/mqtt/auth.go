package mqtt

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/hubhop-iot/hubhop/internal/mqtt5"
)

// Method is how a client proves who it is.
type Method string

// The methods, with their names in manifests. UsernamePassword is an addition of hubhop. The two
// managed identities are one method here: which identity it is, is the business of Auth.Token.
const (
	Anonymous           Method = "Anonymous"
	X509Certificate     Method = "X509Certificate"
	ServiceAccountToken Method = "ServiceAccountToken"
	ManagedIdentity     Method = "ManagedIdentity"
	UsernamePassword    Method = "UsernamePassword"
)

// Auth says how this side proves who it is. The functions are called for each connection. A client
// certificate is the business of Config.TLS.
type Auth struct {
	Method Method // empty: Anonymous
	// Password returns user name and password of UsernamePassword.
	Password func() (user, password string, err error)
	// Token returns the token of ServiceAccountToken or of ManagedIdentity.
	Token func(ctx context.Context) (string, error)
}

// The authentication methods of MQTT 5 enhanced authentication that brokers of Azure know: the
// broker of Azure IoT Operations takes K8S-SAT, Event Grid takes OAUTH2-JWT (Microsoft's page
// "Authenticate to Event Grid with Microsoft Entra JWT").
const (
	methodServiceAccount = "K8S-SAT"
	methodIdentity       = "OAUTH2-JWT"
)

func (c *Config) checkAuth() error {
	a := &c.Auth
	switch a.Method {
	case Anonymous, "":
	case X509Certificate:
		if c.TLS == nil {
			return fmt.Errorf("method %s needs TLS; set tls.mode: Enabled", a.Method)
		}
	case UsernamePassword:
		if a.Password == nil {
			return fmt.Errorf("method %s needs a secret; set secretRef", a.Method)
		}
	case ServiceAccountToken, ManagedIdentity:
		if a.Token == nil {
			return fmt.Errorf("method %s needs a source of tokens; name one", a.Method)
		}
	default:
		return fmt.Errorf("authentication method %q is not known for MQTT; use Anonymous, X509Certificate, ServiceAccountToken, SystemAssignedManagedIdentity, UserAssignedManagedIdentity or UsernamePassword", string(a.Method))
	}
	return nil
}

// apply writes the credentials into a CONNECT.
func (a *Auth) apply(ctx context.Context, h *mqtt5.Hello) error {
	switch a.Method {
	case UsernamePassword:
		user, password, err := a.Password()
		h.Username, h.Password = user, []byte(password)
		return err
	case ServiceAccountToken, ManagedIdentity:
		method, token, err := a.token(ctx)
		h.AuthMethod, h.AuthData = method, []byte(token)
		return err
	default:
		return nil
	}
}

// token returns a token, and the authentication method that it is for.
func (a *Auth) token(ctx context.Context) (method, token string, err error) {
	method = methodServiceAccount
	if a.Method == ManagedIdentity {
		method = methodIdentity
	}
	if token, err = a.Token(ctx); err != nil {
		return "", "", err
	}
	if token == "" || len(token) > 65535 {
		return "", "", fmt.Errorf("the token for %s has %d bytes; it must have 1 to 65535", a.Method, len(token))
	}
	return method, token, nil
}

// The schedule of a new token: it is asked for when the old one ends soon, and again and again
// until there is another. Kubernetes writes a new token when a fifth of the old one's life is left.
const (
	longestLead  = 5 * time.Minute
	leadPart     = 5 // of what is left of the life
	shortestLook = time.Second
)

// renew gives the broker a new token before the one of a session ends, until ctx or the session
// ends. The brokers of Azure IoT Operations and Event Grid end a session with its token otherwise.
// One that does not know such an AUTH ends the session as well, and the next one begins with the
// new token.
func (l *link) renew(ctx context.Context, s *mqtt5.Session, h *mqtt5.Hello) {
	token := string(h.AuthData)
	for h.AuthMethod != "" {
		end, ok := expiry(token)
		left := time.Until(end)
		if !ok || left <= 0 {
			return
		}
		lead := min(longestLead, left/leadPart)
		for wait := left - lead; ; wait = max(lead/8, shortestLook) {
			select {
			case <-ctx.Done():
				return
			case <-s.Done():
				return
			case <-time.After(wait):
			}
			method, next, err := l.c.Auth.token(ctx)
			if err == nil && next != token {
				s.Reauthenticate(method, []byte(next))
				token = next
				break
			}
			if time.Until(end) <= 0 {
				return
			}
		}
	}
}

// expiry returns when a token ends, if it is a JSON Web Token that says so (RFC 7519, section
// 4.1.4).
func expiry(token string) (end time.Time, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}, false
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}, false
	}
	var claims struct {
		Exp float64 `json:"exp"`
	}
	if json.Unmarshal(text, &claims) != nil || claims.Exp <= 0 || claims.Exp > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(claims.Exp), 0), true
}
