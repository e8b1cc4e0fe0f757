package api

import (
	"strconv"
	"strings"
)

// The forms of an error body.
type errorForm int

const (
	formPlain errorForm = iota
	formHTML
	formJSON
	formProblem
)

// negotiate picks the form of an error body for the value of an Accept field
// (RFC 9110, section 12.5.1). On equal weights a problem document comes first,
// because only who names it gets it, then HTML, then JSON. Who accepts neither,
// or says nothing that can be read, gets plain text.
func negotiate(accept string) errorForm {
	best, form := 0.0, formPlain
	for _, offer := range []struct {
		form           errorForm
		major, subtype string
		named          bool
	}{
		{formProblem, "application", "problem+json", true},
		{formHTML, "text", "html", false},
		{formJSON, "application", "json", false},
	} {
		if q := weight(accept, offer.major, offer.subtype, offer.named); q > best {
			best, form = q, offer.form
		}
	}
	return form
}

// weight returns the weight that accept gives to a media type: that of the most
// specific range which covers it, 0 for none. named leaves ranges with * out.
func weight(accept, major, subtype string, named bool) float64 {
	specific, q := -1, 0.0
	for item := range strings.SplitSeq(accept, ",") {
		media, params, _ := strings.Cut(item, ";")
		m, s, ok := strings.Cut(strings.ToLower(strings.TrimSpace(media)), "/")
		rank := -1
		switch {
		case !ok:
		case m == major && s == subtype:
			rank = 2
		case named:
		case m == major && s == "*":
			rank = 1
		case m == "*" && s == "*":
			rank = 0
		}
		if rank > specific {
			specific, q = rank, quality(params)
		}
	}
	return q
}

// quality returns the q parameter: 1 if there is none, 0 if it cannot be read.
func quality(params string) float64 {
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		if !strings.EqualFold(name, "q") {
			continue
		}
		q, err := strconv.ParseFloat(value, 64)
		if err != nil || !(q >= 0 && q <= 1) {
			return 0
		}
		return q
	}
	return 1
}
