package bootchart

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// Measures of the image, in pixels.
const (
	svgWidth  = 960
	svgNames  = 250 // room for the names
	svgRow    = 20
	svgTop    = 60
	svgMargin = 20
)

// SVG writes the chart as an image that stands alone, with a title.
func SVG(w io.Writer, title string, b agent.Boot) error {
	rs, end := rows(b)
	const plot = svgWidth - svgNames - 2*svgMargin
	x := func(ms float64) float64 {
		if end == 0 {
			return svgNames + svgMargin
		}
		return svgNames + svgMargin + ms/end*plot
	}
	height := svgTop + svgRow*len(rs) + svgMargin
	var out strings.Builder
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="12">`+"\n", svgWidth, height)
	out.WriteString(`<rect width="100%" height="100%" fill="#ffffff"/>` + "\n")
	fmt.Fprintf(&out, `<text x="%d" y="24" font-size="15">%s</text>`+"\n", svgMargin, escape(label(title)))
	for _, ms := range ticks(end, 9) {
		fmt.Fprintf(&out, `<path d="M%.1f %dV%d" stroke="#d0d0d0"/><text x="%.1f" y="%d" text-anchor="middle" fill="#606060">%s</text>`+"\n",
			x(ms), svgTop-6, height-svgMargin, x(ms), svgTop-10, tick(ms))
	}
	for i, r := range rs {
		y := svgTop + i*svgRow
		length := fmt.Sprintf("%.1f ms", r.end-r.start)
		if r.open {
			length = "goes on"
		}
		fmt.Fprintf(&out, `<text x="%d" y="%d" text-anchor="end">%s</text>`, svgNames+svgMargin-8, y+14, escape(r.name))
		fmt.Fprintf(&out, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"><title>%s: from %.1f ms, %s</title></rect>`,
			x(r.start), y+3, max(x(r.end)-x(r.start), 1), svgRow-6, colour(r.name), escape(r.name), r.start, length)
		// The figure stands behind its bar, or before one that reaches the end.
		at, anchor := x(r.end)+6, "start"
		if at > svgWidth-svgMargin-60 {
			at, anchor = x(r.start)-6, "end"
		}
		fmt.Fprintf(&out, `<text x="%.1f" y="%d" text-anchor="%s" fill="#606060">%s</text>`+"\n", at, y+14, anchor, length)
	}
	out.WriteString("</svg>\n")
	_, err := io.WriteString(w, out.String())
	return err
}

// colour tells the kernel's time, init's and the services' apart.
func colour(name string) string {
	switch {
	case name == "kernel":
		return "#8a8f98"
	case strings.Contains(name, ": "):
		return "#3b7dd8"
	}
	return "#e08a2e"
}

func escape(s string) string {
	var b strings.Builder
	// A strings.Builder takes everything.
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}
