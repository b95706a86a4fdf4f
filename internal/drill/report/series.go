package report

import "time"

// maxPoints bounds a series, because a drill may last for weeks.
const maxPoints = 720

// Series is how the rate and the backlog went over time, in points of equal width. When there would
// be more than maxPoints, two points become one.
type Series struct {
	StepMs int64   `json:"stepMs"` // width of a point
	Points []Point `json:"points"` // from offset 0 on

	told    int    // points whose backlog somebody has told
	waiting uint64 // what was told last; it holds until somebody tells otherwise
}

// Point is one piece of the time.
type Point struct {
	Arrived uint64 `json:"arrived"` // messages
	Backlog uint64 `json:"backlog"` // the most that waited
}

// firstStep is the width of a point at first.
const firstStep = 200 * time.Millisecond

// settle makes the points wide enough for an offset, and returns the number of its point.
func (s *Series) settle(offset time.Duration) int {
	ms := max(offset.Milliseconds(), 0)
	if s.StepMs <= 0 {
		s.StepMs = firstStep.Milliseconds()
	}
	for ms/s.StepMs >= maxPoints {
		s.halve()
	}
	return int(ms / s.StepMs)
}

// point returns the point of a number.
func (s *Series) point(i int) *Point {
	for len(s.Points) <= i {
		s.Points = append(s.Points, Point{Backlog: s.waiting})
	}
	return &s.Points[i]
}

// halve makes one point of two.
func (s *Series) halve() {
	s.StepMs *= 2
	s.told = (s.told + 1) / 2
	n := 0
	for i := 0; i < len(s.Points); i += 2 {
		p := s.Points[i]
		if i+1 < len(s.Points) {
			q := s.Points[i+1]
			p.Arrived += q.Arrived
			p.Backlog = max(p.Backlog, q.Backlog)
		}
		s.Points[n] = p
		n++
	}
	s.Points = s.Points[:n]
}

// Arrive counts messages that arrived between two offsets. It spreads them evenly.
func (s *Series) Arrive(from, until time.Duration, n uint64) {
	last := s.settle(max(from, until)) // now the width is settled
	first := s.settle(from)
	pieces := uint64(last-first) + 1
	for i := range pieces {
		s.point(first + int(i)).Arrived += n*(i+1)/pieces - n*i/pieces
	}
}

// Wait notes how many samples wait at an offset.
func (s *Series) Wait(offset time.Duration, backlog uint64) {
	i := s.settle(offset)
	p := s.point(i)
	if i >= s.told { // the first word on this point
		p.Backlog, s.told = 0, i+1
	}
	p.Backlog, s.waiting = max(p.Backlog, backlog), backlog
}
