package azure

import "strings"

// Unescape decodes percent-escapes once. As at the service, a plus sign stays a plus sign, and a
// malformed escape stays as it is.
func Unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	return string(AppendUnescaped(make([]byte, 0, len(s)), s))
}

// AppendUnescaped appends the unescaped form of s to dst.
func AppendUnescaped[T string | []byte](dst []byte, s T) []byte {
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if hi, lo := unhex(s[i+1]), unhex(s[i+2]); hi < 16 && lo < 16 {
				dst = append(dst, hi<<4|lo)
				i += 2
				continue
			}
		}
		dst = append(dst, s[i])
	}
	return dst
}

// unhex returns the value of a hexadecimal digit, 16 for any other byte.
func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 16
}

// Escape percent-encodes everything but RFC 3986's unreserved characters. A space becomes %20,
// never a plus sign.
func Escape(s string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hexDigits[c>>4])
		b.WriteByte(hexDigits[c&15])
	}
	return b.String()
}

// QueryRaw finds a key in the query of a topic, such as "$rid=1&retry-after=3". The first one
// counts. The value stays as it was sent, so that it can be echoed.
func QueryRaw(query, key string) (value string, ok bool) {
	for pair := range strings.SplitSeq(query, "&") {
		if k, v, _ := strings.Cut(pair, "="); k == key || Unescape(k) == key {
			return v, true
		}
	}
	return "", false
}

// QueryValue is QueryRaw with the value unescaped.
func QueryValue(query, key string) (value string, ok bool) {
	value, ok = QueryRaw(query, key)
	return Unescape(value), ok
}

// ParseBag decodes a property bag, such as "%24.mid=1&a=b". Each key and value is percent-decoded
// once. Of a doubled key the first value counts. The value of a key without "=" is nil.
func ParseBag(bag string) map[string]*string {
	props := map[string]*string{}
	for pair := range strings.SplitSeq(bag, "&") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		key = Unescape(key)
		if _, doubled := props[key]; doubled {
			continue
		}
		if !ok {
			props[key] = nil
			continue
		}
		value = Unescape(value)
		props[key] = &value
	}
	return props
}

// RIDLimit is the length of a $rid, as written, that is certain to fit into an answer's topic.
const RIDLimit = 32 << 10
