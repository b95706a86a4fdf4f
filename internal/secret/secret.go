// Package secret keeps keys out of texts that people read. People paste a key where a file name, an
// id or a flag belongs, and libraries quote what they were given.
package secret

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
)

// maxQuoted is how many bytes of a user's text an error repeats.
const maxQuoted = 200

// Quotable makes a text fit for an error or a log: one line, of bounded length. It replaces a text
// that may be a secret, because people paste a key where a file name, an id or a flag belongs.
func Quotable(text string) string {
	switch {
	case Looks(text):
		return "(what looks like a secret)"
	case len(text) > maxQuoted:
		return Quotable(strings.ToValidUTF8(text[:maxQuoted], "")) + "…"
	}
	return OneLine(text)
}

// OneLine escapes a text so that it neither moves the cursor nor begins a line.
func OneLine(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

// QuotedAddress is Quoted for an address or URL. A part of it may be a secret: the text before an @
// is often a password.
func QuotedAddress(text string) string {
	if at := strings.LastIndexByte(text, '@'); at >= 0 {
		text = "…" + text[at:]
	}
	notBase64 := func(r rune) bool { return !strings.ContainsRune(base64Letters, r) }
	if slices.ContainsFunc(strings.FieldsFunc(text, notBase64), func(part string) bool { return Looks(strings.Trim(part, "/")) }) {
		return "(what looks like a secret)"
	}
	return Quoted(text)
}

const base64Letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// Quoted is Quotable with quotes around the text.
func Quoted(text string) string {
	if q := Quotable(text); q != text {
		return q
	}
	return strconv.Quote(text)
}

var (
	sharedAccess = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`(?i)\b(SharedAccess(?:Key|Signature)|sig)=[^;&\s"']+`)
	})
	base64Padded = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`[A-Za-z0-9+/_-]{20,}(?:={1,2}|(?:%3[Dd]){1,2})`) })
	base64Bare   = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9+/]{32,}$`) })
	privateKey   = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----`) })
)

// Looks reports whether a text is, or contains, a key, a token or a connection string.
func Looks(text string) bool {
	if sharedAccess().MatchString(text) || base64Padded().MatchString(text) || privateKey().MatchString(text) {
		return true
	}
	if !base64Bare().MatchString(text) || strings.HasPrefix(text, "/") { // a path is not mistaken for a key
		return false
	}
	return strings.ContainsFunc(text, unicode.IsLower) && strings.ContainsFunc(text, unicode.IsUpper) &&
		strings.ContainsFunc(text, unicode.IsDigit)
}

// HoldsPrivateKey reports whether a text holds a private key in PEM.
func HoldsPrivateKey(text []byte) bool { return privateKey().Match(text) }

// Without replaces everything in a finished text that looks like a key, from wherever it comes.
func Without(text string) string {
	text = sharedAccess().ReplaceAllString(text, "$1=********")
	return base64Padded().ReplaceAllString(text, "********")
}

// KeyName makes the name of a configuration key fit for an error. In a line without its colon the
// name may be a secret; no real name is as long and as mixed as one.
func KeyName(name string) string {
	if len(name) > 40 || len(name) > 20 && strings.ContainsFunc(name, unicode.IsUpper) && strings.ContainsFunc(name, unicode.IsLower) {
		return "(what looks like a secret)"
	}
	return Quotable(name)
}
