package client

import (
	"fmt"
	"net/url"
)

// pages yields what is on the pages of a list, the first of which has the query
// that values write. fetch gets one page, and the link to the next, "" if it is the
// last. After an error nothing more is yielded.
func pages[T any](values url.Values, yield func(T, error) bool, fetch func(query string) (items []T, next string, err error)) {
	var none T
	for query := values.Encode(); ; {
		items, link, err := fetch(query)
		if err != nil {
			yield(none, err)
			return
		}
		for _, item := range items {
			if !yield(item, nil) {
				return
			}
		}
		if link == "" {
			return
		}
		// Only the query counts: a page cannot send the client to another place.
		u, err := url.Parse(link)
		switch {
		case err != nil || u.RawQuery == "":
			yield(none, fmt.Errorf("%w: list: next page %.80q", errAnswer, link))
			return
		case u.RawQuery == query:
			yield(none, fmt.Errorf("%w: the next page of the list is the same page again", errAnswer))
			return
		}
		query = u.RawQuery
	}
}

func withQuery(path, query string) string {
	if query == "" {
		return path
	}
	return path + "?" + query
}
