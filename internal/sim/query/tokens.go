package query

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// token is the smallest part of a query: a name, a number, a string or a sign.
type token struct {
	kind byte // 'n' is a name, 'd' digits, 's' a string, '.' a sign, 0 the end
	text string
}

// tokenize splits a query into its tokens.
func tokenize(s string) (tokens []token, err error) {
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		n := size
		t := token{kind: '.'}
		switch {
		case unicode.IsSpace(r):
			s = s[size:]
			continue
		case r == '\'' || r == '"':
			if t.text, n, err = quoted(s); err != nil {
				return nil, err
			}
			t.kind = 's'
		case r >= '0' && r <= '9' || r == '-' && len(s) > 1 && s[1] >= '0' && s[1] <= '9':
			t.kind = 'd'
			for n = 1; n < len(s) && strings.IndexByte("0123456789.eE+-", s[n]) >= 0; n++ {
				if (s[n] == '+' || s[n] == '-') && s[n-1] != 'e' && s[n-1] != 'E' {
					break
				}
			}
			t.text = s[:n]
		case r == '_' || r == '$' || unicode.IsLetter(r):
			t.kind = 'n'
			n = strings.IndexFunc(s, func(r rune) bool {
				return r != '_' && r != '$' && r != '-' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
			})
			if n < 0 {
				n = len(s)
			}
			t.text = s[:n]
		default:
			if len(s) > 1 && slices.Contains([]string{"!=", "<>", "<=", ">="}, s[:2]) {
				n = 2
			}
			t.text = s[:n]
		}
		tokens = append(tokens, t)
		s = s[n:]
	}
	return tokens, nil
}

// quoted reads a string in single or double quotes at the beginning of s. It returns also how many
// bytes the string takes up. A quote within it is doubled, or has a backslash before it.
func quoted(s string) (text string, n int, err error) {
	quote := s[0]
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case s[i] != quote:
			b.WriteByte(s[i])
		case i+1 < len(s) && s[i+1] == quote:
			i++
			b.WriteByte(quote)
		default:
			return b.String(), i + 1, nil
		}
	}
	return "", 0, fmt.Errorf("%w: a string has no end", errMalformed)
}
