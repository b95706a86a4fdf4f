package report

import (
	"fmt"
	"html"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// canvas collects the elements of an SVG. Each text from outside goes through text or title, which
// escape it.
type canvas struct {
	b    strings.Builder
	most int // characters of a text from outside
}

// num writes a coordinate with one decimal at most.
func num(v float64) string {
	s := strconv.FormatFloat(v, 'f', 1, 64)
	return strings.TrimSuffix(strings.TrimSuffix(s, ".0"), "-")
}

func (c *canvas) raw(format string, a ...any) { fmt.Fprintf(&c.b, format, a...) }

func (c *canvas) rect(class string, x, y, w, h, round float64, title string) {
	c.raw(`<rect class="%s" x="%s" y="%s" width="%s" height="%s"`, class, num(x), num(y), num(max(w, 0.1)), num(h))
	if round > 0 {
		c.raw(` rx="%s"`, num(round))
	}
	if title == "" {
		c.raw("/>\n")
		return
	}
	c.raw("><title>%s</title></rect>\n", escape(title, c.most))
}

func (c *canvas) line(class string, x1, y1, x2, y2 float64) {
	c.raw(`<line class="%s" x1="%s" y1="%s" x2="%s" y2="%s"/>`+"\n", class, num(x1), num(y1), num(x2), num(y2))
}

// text writes a text. anchor is start, middle or end.
func (c *canvas) text(class string, x, y float64, anchor, text string) {
	c.raw(`<text class="%s" x="%s" y="%s"`, class, num(x), num(y))
	if anchor != "start" {
		c.raw(` text-anchor="%s"`, anchor)
	}
	c.raw(">%s</text>\n", escape(text, c.most))
}

// escape makes a text from outside fit for XML, and bounds it.
func escape(s string, most int) string { return html.EscapeString(plainText(s, most)) }

// plainText bounds a text, and takes out what XML or a line cannot hold.
func plainText(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError, r == 0xFFFE, r == 0xFFFF:
			return '�'
		case r == '\t', r == '\n', r == '\r':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r), unicode.Is(unicode.Co, r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "�"))
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most-1]) + "…"
	}
	return s
}

// fit cuts a text to a width, in a font whose characters are about char wide.
func fit(s string, width, char float64) string {
	most := int(width / char)
	s = plainText(s, 4*max(most, 1))
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	if most < 3 {
		return ""
	}
	return plainText(s, most)
}

// widthOf is about how wide a text is.
func widthOf(s string, char float64) float64 { return float64(utf8.RuneCountInString(s)) * char }

// scale says where the times of a run are drawn, and how they are written.
type scale struct {
	left, width float64
	total       int64 // ms
}

func (s scale) x(ms int64) float64 {
	return s.left + s.width*float64(min(max(ms, 0), s.total))/float64(s.total)
}

var ticks = []time.Duration{
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour,
	24 * time.Hour, 48 * time.Hour, 7 * 24 * time.Hour, 14 * 24 * time.Hour, 28 * 24 * time.Hour,
}

// tick returns the time between two marks of the axis, so that there are at most 12.
func (s scale) tick() int64 {
	for _, t := range ticks {
		if s.total/t.Milliseconds() <= 12 {
			return t.Milliseconds()
		}
	}
	return max(s.total/10, 1)
}

// label writes an offset under the axis.
func (s scale) label(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	switch {
	case s.total <= 3000:
		return strconv.FormatFloat(d.Seconds(), 'g', -1, 64)
	case s.total <= 120_000:
		return strconv.FormatInt(ms/1000, 10)
	case s.total <= 2*3600_000:
		return fmt.Sprintf("%d:%02d", ms/60_000, ms/1000%60)
	case s.total <= 3*86400_000:
		return fmt.Sprintf("%d:%02d", ms/3600_000, ms/60_000%60)
	default:
		return strconv.FormatFloat(d.Hours()/24, 'g', 3, 64)
	}
}

// unit names what label writes.
func (s scale) unit() string {
	switch {
	case s.total <= 120_000:
		return "seconds"
	case s.total <= 2*3600_000:
		return "min:s"
	case s.total <= 3*86400_000:
		return "h:min"
	default:
		return "days"
	}
}

// count writes a number with commas between the thousands.
func count(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// short writes a number in few characters: 950, 12k, 2.6M.
func short(v float64) string {
	switch {
	case v >= 999_500:
		return strconv.FormatFloat(v/1e6, 'g', 2, 64) + "M"
	case v >= 9950:
		return strconv.FormatFloat(v/1e3, 'f', 0, 64) + "k"
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 0, 64)
	default:
		return strconv.FormatFloat(v, 'g', 2, 64)
	}
}
