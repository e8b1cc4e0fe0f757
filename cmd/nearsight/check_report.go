package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nearsight/origin"
	"nearsight/registry/task"
)

// advice says what to do about findings, in the order in which they are summed up.
var advice = [...]struct {
	kind task.FindingKind
	text string
}{
	{task.Missing, "data is gone: bring it back, or delete the image or its location"},
	{task.Changed, "data is not what it was: bring it back, or delete the image or its location"},
	{task.WrongSize, "data is too short or too long: bring it back, or delete the image or its location"},
	{task.WrongData, "data is damaged: bring it back, or delete the image or its location"},
	{task.Unchecked, "a store could not be asked: see why, and check again"},
	{task.Orphan, "no image needs it: --repair deletes it"},
	{task.Leftover, "an upload that was cut off left it: --repair deletes it"},
}

// A report tells what a check finds, as it is found.
type report struct {
	cmd   *cobra.Command
	line  *statusLine
	width int // of the column of stores

	images, findings int
	found, repaired  map[task.FindingKind]int
}

func newReport(cmd *cobra.Command, members []origin.Member) *report {
	r := &report{cmd: cmd, line: newStatusLine(cmd), width: 1, found: map[task.FindingKind]int{}, repaired: map[task.FindingKind]int{}}
	for _, m := range members {
		r.width = max(r.width, len(m.Name))
	}
	return r
}

// add tells of a finding. name is that of its image.
func (r *report) add(f task.Finding, name string) error {
	r.findings++
	r.found[f.Kind]++
	if f.Repaired {
		r.repaired[f.Kind]++
	}
	r.line.clear()
	if asked(r.cmd, "json") {
		return r.addJSON(f, name)
	}
	out := r.cmd.OutOrStdout()
	if r.findings == 1 {
		if _, err := fmt.Fprintf(out, "%-10s  %-*s  %s\n", "FINDING", r.width, "STORE", "LOCATION"); err != nil {
			return err
		}
	}
	where := fmt.Sprintf("%-10s  %-*s  %s", f.Kind, r.width, orDash(f.Store), orDash(f.URL))
	_, err := fmt.Fprintf(out, "%s\n  %s\n", printable(where), printable(strings.Join(particulars(f, name), ", ")))
	return err
}

// particulars says of a finding all but where it is.
func particulars(f task.Finding, name string) []string {
	var parts []string
	switch {
	case f.ImageID != "" && name != "":
		parts = append(parts, fmt.Sprintf("image %s (%s)", f.ImageID, name))
	case f.ImageID != "":
		parts = append(parts, "image "+f.ImageID)
	}
	if f.Size >= 0 {
		parts = append(parts, humanBytes(f.Size)+" there")
	}
	if !f.ModTime.IsZero() {
		parts = append(parts, "written "+f.ModTime.UTC().Format(time.RFC3339))
	}
	if f.Detail != "" {
		parts = append(parts, strings.ReplaceAll(f.Detail, "\n", "; "))
	}
	if f.Repaired {
		parts = append(parts, "DELETED")
	}
	return parts
}

// addJSON writes a finding on a line of its own.
func (r *report) addJSON(f task.Finding, name string) error {
	line := struct {
		Kind     task.FindingKind `json:"kind"`
		Store    string           `json:"store,omitempty"`
		URL      string           `json:"url,omitempty"`
		Image    string           `json:"image,omitempty"`
		Name     string           `json:"name,omitempty"`
		Size     *int64           `json:"size,omitempty"`
		Written  time.Time        `json:"written,omitzero"`
		Repaired bool             `json:"repaired"`
		Detail   string           `json:"detail,omitempty"`
	}{f.Kind, f.Store, f.URL, f.ImageID, name, nil, f.ModTime.UTC(), f.Repaired, f.Detail}
	if f.Size >= 0 {
		line.Size = &f.Size
	}
	text, err := json.Marshal(line)
	if err != nil {
		return err
	}
	_, err = r.cmd.OutOrStdout().Write(append(escapeJSON(text), '\n'))
	return err
}

// end sums up. The error says that something was found.
func (r *report) end(repair bool) error {
	r.line.clear()
	if !asked(r.cmd, "json") {
		if err := r.sum(repair); err != nil {
			return err
		}
	}
	switch repaired := r.allRepaired(); {
	case r.findings == 0:
		return nil
	case repaired > 0:
		return fmt.Errorf("check: findings: %d, of which repaired: %d", r.findings, repaired)
	}
	return fmt.Errorf("check: findings: %d", r.findings)
}

func (r *report) allRepaired() int {
	n := 0
	for _, of := range r.repaired {
		n += of
	}
	return n
}

// sum writes how many findings of each kind there are, and what to do about them.
func (r *report) sum(repair bool) error {
	out := r.cmd.OutOrStdout()
	if r.findings == 0 {
		_, err := fmt.Fprintf(out, "nothing is wrong; images with data: %d\n", r.images)
		return err
	}
	rows := [][]string{{"FINDING", "HOW MANY", "WHAT TO DO"}}
	for _, a := range advice {
		n, done := r.found[a.kind], r.repaired[a.kind]
		text := a.text
		switch {
		case n == 0:
			continue
		case done == n:
			text = "nothing: deleted"
		case repair && (a.kind == task.Orphan || a.kind == task.Leftover):
			text = strconv.Itoa(done) + " deleted; see above why not the others"
		}
		rows = append(rows, []string{string(a.kind), strconv.Itoa(n), text})
	}
	if _, err := fmt.Fprintf(out, "\nimages with data: %d\n", r.images); err != nil {
		return err
	}
	return printTable(r.cmd, rows)
}
