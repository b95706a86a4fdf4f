package dps

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/amenzhinsky/iothub/common"
)

// DeriveKey computes the key of one device from the key of its enrollment group:
// base64(HMAC-SHA256(group key, registration id)). The registration id is used exactly as given.
// Errors name what is wrong with the key, never the key.
func DeriveKey(groupKey, registrationID string) (string, error) {
	secret, err := decodeKey(groupKey)
	if err != nil {
		return "", err
	}
	if err := CheckRegistrationID(registrationID); err != nil {
		return "", err
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(registrationID))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil)), nil
}

// CheckKey returns an error if key is no usable symmetric key. The error says nothing about its
// content.
func CheckKey(key string) error {
	_, err := decodeKey(key)
	return err
}

// Fingerprint identifies a key without giving it away: the first 16 hex digits of its SHA-256.
func Fingerprint(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:8])
}

func decodeKey(key string) ([]byte, error) {
	switch {
	case key == "":
		return nil, errors.New("the key is empty")
	case strings.ContainsAny(key, " \t\r\n"):
		return nil, errors.New("the key contains white space; copy it again as one word")
	}
	secret, err := base64.StdEncoding.DecodeString(key)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the key is not standard base64 (%d characters were given); copy it again, with the = signs at its end", len(key))
	case len(secret) < 16:
		return nil, fmt.Errorf("the key has %d bytes only; a key of Azure has at least 16", len(secret))
	}
	return secret, nil
}

// token returns the SAS token for one registration. Its resource is
// {idScope}/registrations/{registrationId}, its policy name is registration.
func (c *Client) token(now time.Time) (string, error) {
	if c.Key == "" {
		return "", nil // X.509: the certificate speaks in the TLS handshake
	}
	return Token(c.IDScope, c.RegistrationID, c.Key, now)
}

// Token returns a SAS token for the registration of one device, which is good for [TokenLife] from
// now on. With it DPS registers the device, and also answers its status lookup over HTTPS.
func Token(idScope, registrationID, key string, now time.Time) (string, error) {
	sas, err := common.NewSharedAccessSignature(idScope+"/registrations/"+registrationID, "registration", key, now.Add(TokenLife))
	if err != nil {
		// The library's error would quote a part of the key.
		return "", errors.New("the device key is not base64")
	}
	return sas.String(), nil
}

// TokenLife is how long a token for DPS is good. A registration is over in minutes, and a clock may
// be a little off.
const TokenLife = time.Hour

func (c *Client) path(rest string) string {
	return "/" + url.PathEscape(c.IDScope) + "/registrations/" + url.PathEscape(c.RegistrationID) + rest
}
