package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestEveryCommandSaysWhatItDoesWithAnExample(t *testing.T) {
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
		path := cmd.CommandPath()
		if !cmd.HasParent() || strings.HasPrefix(path, "nearsight completion") || cmd.Name() == "help" {
			return
		}
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: its short text is %q", path, cmd.Short)
		}
		for line := range strings.SplitSeq(cmd.Long+"\n"+cmd.Example, "\n") {
			if len(line) > 100 {
				t.Errorf("%s: a line of %d characters: %s", path, len(line), line)
			}
		}
		if cmd.Example == "" {
			t.Errorf("%s has no example", path)
		}
		for line := range strings.SplitSeq(cmd.Example, "\n") {
			if line != "" && !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: the example %q is not indented", path, line)
			}
		}
	}
	walk(newRoot())
}

func TestEveryCommandIsInAGroup(t *testing.T) {
	root := newRoot()
	groups := map[string]bool{}
	for _, g := range root.Groups() {
		groups[g.ID] = true
	}
	for _, cmd := range root.Commands() {
		if !groups[cmd.GroupID] {
			t.Errorf("%s is in group %q", cmd.Name(), cmd.GroupID)
		}
	}
}

func TestTheVersionIsAFlagToo(t *testing.T) {
	var out strings.Builder
	root := newRoot()
	root.SetOut(&out)
	root.SetArgs([]string{"--version"})
	if err := root.Execute(); err != nil || out.String() != "nearsight version "+readVersion().Version+"\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}
