package cmd

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// maxQuoted is how many bytes of a user's text an error repeats.
const maxQuoted = 200

// quotable makes a text fit for an error or a log: one line, of bounded length. It replaces a text
// that may be a secret, because people paste a key where a file name, an id or a flag belongs.
func quotable(text string) string {
	switch {
	case looksSecret(text):
		return "(what looks like a secret)"
	case len(text) > maxQuoted:
		return quotable(strings.ToValidUTF8(text[:maxQuoted], "")) + "…"
	}
	return oneLine(text)
}

// oneLine escapes a text so that it neither moves the cursor nor begins a line.
func oneLine(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

// quotedAddress is quoted for an address or URL. A part of it may be a secret: the text before an @
// is often a password.
func quotedAddress(text string) string {
	if at := strings.LastIndexByte(text, '@'); at >= 0 {
		text = "…" + text[at:]
	}
	notBase64 := func(r rune) bool { return !strings.ContainsRune(base64Letters, r) }
	if slices.ContainsFunc(strings.FieldsFunc(text, notBase64), func(part string) bool { return looksSecret(strings.Trim(part, "/")) }) {
		return "(what looks like a secret)"
	}
	return quoted(text)
}

const base64Letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// quoted is quotable with quotes around the text.
func quoted(text string) string {
	if q := quotable(text); q != text {
		return q
	}
	return strconv.Quote(text)
}

var (
	sharedAccess = regexp.MustCompile(`(?i)\b(SharedAccess(?:Key|Signature)|sig)=[^;&\s"']+`)
	base64Padded = regexp.MustCompile(`[A-Za-z0-9+/_-]{20,}(?:={1,2}|(?:%3[Dd]){1,2})`)
	base64Bare   = regexp.MustCompile(`^[A-Za-z0-9+/]{32,}$`)
	privateKey   = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----`)
)

// looksSecret says whether a text is or holds a key, a token or a connection string.
func looksSecret(text string) bool {
	if sharedAccess.MatchString(text) || base64Padded.MatchString(text) || privateKey.MatchString(text) {
		return true
	}
	if !base64Bare.MatchString(text) || strings.HasPrefix(text, "/") { // a path is not mistaken for a key
		return false
	}
	return strings.ContainsFunc(text, unicode.IsLower) && strings.ContainsFunc(text, unicode.IsUpper) &&
		strings.ContainsFunc(text, unicode.IsDigit)
}

// withoutSecrets removes from a finished text what looks like a key, from wherever it comes.
func withoutSecrets(text string) string {
	text = sharedAccess.ReplaceAllString(text, "$1=********")
	return base64Padded.ReplaceAllString(text, "********")
}

// keyName makes the name of a configuration key fit for an error. In a line without its colon the
// name may be a secret; no real name is as long and as mixed as one.
func keyName(name string) string {
	if len(name) > 40 || len(name) > 20 && strings.ContainsFunc(name, unicode.IsUpper) && strings.ContainsFunc(name, unicode.IsLower) {
		return "(what looks like a secret)"
	}
	return quotable(name)
}

// valueOf makes the value of a key fit for an error. It never shows the value of a key that is a
// secret.
func valueOf(key, value string) string {
	if slices.Contains(secrets, key) {
		return "what was given"
	}
	return quoted(value)
}
