package mqtt

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/mqtt5"
	"github.com/hubhop-iot/hubhop/internal/namedfile"
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

// Auth says how this side proves who it is. Files and tokens are read anew for each connection.
type Auth struct {
	Method Method // empty: Anonymous
	// SecretDir is the directory of a secret, a file for each key. X509Certificate wants
	// client_cert.pem and client_key.pem, and takes client_intermediate_certs.pem; or tls.crt and
	// tls.key. UsernamePassword wants username and password.
	SecretDir string
	// TokenFile has the token of ServiceAccountToken.
	TokenFile string
	// Token returns the access token of ManagedIdentity.
	Token func(ctx context.Context) (string, error)
}

// The authentication methods of MQTT 5 enhanced authentication that brokers of Azure know: the
// broker of Azure IoT Operations takes K8S-SAT, Event Grid takes OAUTH2-JWT (Microsoft's page
// "Authenticate to Event Grid with Microsoft Entra JWT").
const (
	methodServiceAccount = "K8S-SAT"
	methodIdentity       = "OAUTH2-JWT"
)

func (a *Auth) check() error {
	switch a.Method {
	case Anonymous, "":
	case X509Certificate, UsernamePassword:
		if a.SecretDir == "" {
			return fmt.Errorf("method %s needs a secret; set secretRef", a.Method)
		}
	case ServiceAccountToken:
		if a.TokenFile == "" {
			return fmt.Errorf("method %s needs a token; put it into secrets/serviceaccount/token", a.Method)
		}
	case ManagedIdentity:
		if a.Token == nil {
			return errors.New("a managed identity needs a source of tokens; name a token program or run where an identity endpoint is")
		}
	default:
		return fmt.Errorf("authentication method %q is not known for MQTT; use Anonymous, X509Certificate, ServiceAccountToken, SystemAssignedManagedIdentity, UserAssignedManagedIdentity or UsernamePassword", string(a.Method))
	}
	return nil
}

// apply reads the secrets into a CONNECT and a TLS configuration.
func (a *Auth) apply(ctx context.Context, h *mqtt5.Hello, conf *tls.Config) error {
	switch a.Method {
	case Anonymous, "":
	case X509Certificate:
		cert, err := certificate(a.SecretDir)
		if err != nil {
			return err
		}
		conf.Certificates = []tls.Certificate{*cert}
	case UsernamePassword:
		name, err := key(a.SecretDir, "username")
		if err != nil {
			return err
		}
		password, err := key(a.SecretDir, "password")
		if err != nil {
			return err
		}
		if len(name) > 65535 || len(password) > 65535 {
			return fmt.Errorf("the user name or the password in %s has more than 65535 bytes", a.SecretDir)
		}
		h.Username, h.Password = string(name), password
	case ServiceAccountToken:
		token, err := namedfile.ReadKey("the service account token", a.TokenFile)
		if err != nil {
			return err
		}
		return enhanced(h, methodServiceAccount, token)
	case ManagedIdentity:
		token, err := a.Token(ctx)
		if err != nil {
			return fmt.Errorf("no token of the managed identity: %w", err)
		}
		return enhanced(h, methodIdentity, token)
	}
	return nil
}

func enhanced(h *mqtt5.Hello, method, token string) error {
	if token == "" || len(token) > 65535 {
		return fmt.Errorf("a token of %d bytes; it must have 1 to 65535", len(token))
	}
	h.AuthMethod, h.AuthData = method, []byte(token)
	return nil
}

// key reads one key of a secret, without the line break that editors put at the end.
func key(dir, name string) ([]byte, error) {
	b, err := namedfile.Read("the key "+name+" of the secret", filepath.Join(dir, name), namedfile.MaxKeyBytes)
	if err != nil {
		return nil, err
	}
	return bytes.TrimRight(b, "\r\n"), nil
}

// certificate reads the client certificate of a secret, with its chain.
func certificate(dir string) (*tls.Certificate, error) {
	names := []string{"client_cert.pem", "client_key.pem"}
	cert, err := key(dir, names[0])
	if err != nil {
		var other error
		if cert, other = key(dir, "tls.crt"); other != nil {
			return nil, err
		}
		names = []string{"tls.crt", "tls.key"}
	}
	private, err := key(dir, names[1])
	if err != nil {
		return nil, err
	}
	if more, err := key(dir, "client_intermediate_certs.pem"); err == nil {
		cert = slices.Concat(cert, []byte("\n"), more)
	}
	pair, err := tls.X509KeyPair(cert, private)
	if err != nil {
		return nil, fmt.Errorf("the certificate of the secret %s cannot be used: %s; write the certificate and its key in PEM, without a password",
			dir, strings.TrimPrefix(err.Error(), "tls: "))
	}
	return &pair, nil
}
