package cmd

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// maxQuoted is how much of a text that somebody gave is repeated in an error, in bytes.
const maxQuoted = 200

// quotable is a text as it may stand in an error or a log: in one line, not endless, and not at all
// if it may be a secret. People paste a key where a file name, an id or a flag belongs.
func quotable(text string) string {
	switch {
	case looksSecret(text):
		return "(what looks like a secret)"
	case len(text) > maxQuoted:
		return quotable(strings.ToValidUTF8(text[:maxQuoted], "")) + "…"
	}
	return oneLine(text)
}

// oneLine is a text of any length that moves no cursor and begins no line.
func oneLine(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

// quotedAddress is quoted for an address or URL, whose parts may be secrets: what stands before an @ is
// often a password.
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

// quoted is quotable between quotes.
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

// withoutSecrets takes out of a finished text what looks like a key, wherever the text comes from.
func withoutSecrets(text string) string {
	text = sharedAccess.ReplaceAllString(text, "$1=********")
	return base64Padded.ReplaceAllString(text, "********")
}

// keyName is the name of a key of the configuration as it may stand in an error. Where a key belongs
// a secret may stand too, in a line without its colon; no name is as long and as mixed as one.
func keyName(name string) string {
	if len(name) > 40 || len(name) > 20 && strings.ContainsFunc(name, unicode.IsUpper) && strings.ContainsFunc(name, unicode.IsLower) {
		return "(what looks like a secret)"
	}
	return quotable(name)
}

// valueOf is the value of a key as it may stand in an error: that of a secret does not, whatever it looks like.
func valueOf(key, value string) string {
	if slices.Contains(secrets, key) {
		return "what was given"
	}
	return quoted(value)
}
