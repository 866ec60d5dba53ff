package admin

// The pictures of the overview, as SVG. They have no style of their own: their classes get the colours of the page, in light and dark.

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The measures of a picture, in units of its viewBox.
const (
	chartWidth  = 480
	chartHeight = 150
	chartLeft   = 44 // room for the labels of the values
	chartBottom = 20 // room for the labels of the time
	chartTop    = 8
)

// The bounds of the axis of latencies, which is logarithmic: alerts take milliseconds, and minutes where something is wrong.
const (
	shortest = 0.001 // seconds
	longest  = 1000.0
)

// picture is what the template draws.
type picture struct {
	Title string
	Says  string // the picture in words
	Empty bool   // nothing was measured yet
	Rows  []mark // lines of the grid
	Hours []mark
	Area  string // points of a polygon
	Lines []line
}

// mark is a line of the grid with its label.
type mark struct {
	At   float64 // x or y
	Text string
}

// line is a line through points; a value that is missing interrupts it.
type line struct{ Class, Points string }

// window is the time that a picture shows: the samples', but an hour at least, so that the first minutes are not stretched.
func window(list []sample) (from, to time.Time) {
	if len(list) == 0 {
		return from, to
	}
	from, to = list[0].at, list[len(list)-1].at
	if to.Sub(from) < time.Hour {
		from = to.Add(-time.Hour)
	}
	return from, to
}

// place is where something stands between two bounds, on the axis of time.
func place(at, from, to time.Time) float64 {
	return chartLeft + (chartWidth-chartLeft)*float64(at.Sub(from))/float64(max(to.Sub(from), 1))
}

// height is where a share of the highest value stands.
func height(share float64) float64 {
	return chartTop + (chartHeight-chartTop-chartBottom)*(1-min(max(share, 0), 1))
}

// hours are the marks of whole hours, in UTC.
func hours(from, to time.Time) (list []mark) {
	for at := from.UTC().Truncate(time.Hour).Add(time.Hour); !at.After(to); at = at.Add(time.Hour) {
		list = append(list, mark{round(place(at, from, to)), at.Format("15:04")})
	}
	return list
}

// alertsPicture draws the alerts of each minute.
func alertsPicture(list []sample) picture {
	p := picture{Title: "Alerts a minute that APNs accepted", Empty: len(list) == 0}
	if p.Empty {
		p.Says = "No minute is over yet."
		return p
	}
	from, to := window(list)
	most := list[0]
	for _, s := range list {
		if s.alerts > most.alerts {
			most = s
		}
	}
	top := nice(most.alerts)
	for _, share := range []float64{0, 0.5, 1} {
		p.Rows = append(p.Rows, mark{round(height(share)), number(top * share)})
	}
	p.Hours = hours(from, to)
	var area, points strings.Builder
	point(&area, place(list[0].at, from, to), height(0))
	for _, s := range list {
		point(&area, place(s.at, from, to), height(s.alerts/top))
		point(&points, place(s.at, from, to), height(s.alerts/top))
	}
	point(&area, place(to, from, to), height(0))
	p.Area, p.Lines = area.String(), []line{{"line", points.String()}}
	last := list[len(list)-1]
	p.Says = fmt.Sprintf("In the last minute %s, at most %s, at %s UTC.", number(last.alerts), number(most.alerts), most.at.UTC().Format("15:04"))
	return p
}

// secondsPicture draws how long alerts took to APNs' acceptance.
func secondsPicture(list []sample) picture {
	return latencyPicture(picture{Title: "From Exchange’s notification to APNs’ acceptance", Says: "No alert was measured yet."}, list,
		func(s sample) latency { return s.took })
}

// screenPicture draws how long alerts took to the screen of a phone.
func screenPicture(list []sample) picture {
	return latencyPicture(picture{Title: "From the mail’s arrival to the phone’s screen", Says: "No phone has confirmed an alert yet."}, list,
		func(s sample) latency { return s.screen })
}

// latencyPicture draws a latency into a picture that says that there is none.
func latencyPicture(p picture, list []sample, of func(sample) latency) picture {
	p.Empty = true
	from, to := window(list)
	scale := func(seconds float64) float64 {
		return height(math.Log(seconds/shortest) / math.Log(longest/shortest))
	}
	for _, r := range []struct {
		seconds float64
		text    string
	}{{0.001, "1 ms"}, {0.1, "100 ms"}, {1, "1 s"}, {10, "10 s"}, {1000, "17 min"}} {
		p.Rows = append(p.Rows, mark{round(scale(r.seconds)), r.text})
	}
	p.Hours = hours(from, to)
	for _, curve := range []struct {
		class string
		value func(latency) float64
	}{{"line", func(l latency) float64 { return l.p50 }}, {"high", func(l latency) float64 { return l.p99 }}} {
		var points strings.Builder
		flush := func() {
			if points.Len() > 0 {
				p.Lines = append(p.Lines, line{curve.class, points.String()})
			}
			points.Reset()
		}
		for _, s := range list {
			v := curve.value(of(s))
			if math.IsNaN(v) {
				flush()
				continue
			}
			p.Empty = false
			x, y := place(s.at, from, to), scale(max(v, shortest))
			if points.Len() == 0 { // a minute alone is a dash and not nothing
				point(&points, x-2, y)
			}
			point(&points, x, y)
		}
		flush()
	}
	for _, s := range slices.Backward(list) {
		if l := of(s); !math.IsNaN(l.p50) {
			p.Says = fmt.Sprintf("At %s UTC half of the alerts took at most %s, 99 of 100 at most %s.", s.at.UTC().Format("15:04"), length(l.p50), length(l.p99))
			break
		}
	}
	return p
}

func point(b *strings.Builder, x, y float64) {
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	b.WriteString(number(round(x)) + "," + number(round(y)))
}

// round rounds to a tenth: finer than a screen shows, and shorter.
func round(v float64) float64 { return math.Round(v*10) / 10 }

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// nice is the first of 2, 4, 10, 20, 40, 100 … that is not below a value.
func nice(v float64) float64 {
	for unit := 1.0; ; unit *= 10 {
		for _, of := range []float64{2, 4, 10} {
			if v <= of*unit || math.IsInf(v, 1) {
				return of * unit
			}
		}
	}
}

// length formats seconds.
func length(seconds float64) string {
	return took(time.Unix(0, 1), time.Unix(0, 1).Add(time.Duration(seconds*float64(time.Second))))
}
