package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

const envPrefix = "NEARSIGHT_"

// A setting is one value of a Config.
type setting struct {
	name   string // section.key, as the file has it
	field  reflect.Value
	tag    reflect.StructTag
	source string // of the value
}

func (s *setting) env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(s.name, ".", "_"))
}

// set changes the value. Errors say what is wrong where.
func (s *setting) set(text, source string) error {
	if err := setText(s.field, s.tag, text); err != nil {
		return fmt.Errorf("%s: %s: %w", source, s.name, err)
	}
	s.source = source
	return nil
}

// Settings are all values of a Config, by name.
type settings map[string]*setting

func settingsOf(c *Config) settings {
	all := settings{}
	var walk func(prefix string, v reflect.Value)
	walk = func(prefix string, v reflect.Value) {
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if key := f.Tag.Get("key"); key != "" {
				all[prefix+key] = &setting{prefix + key, v.Field(i), f.Tag, "default"}
			} else {
				walk(strings.ToLower(f.Name)+".", v.Field(i))
			}
		}
	}
	walk("", reflect.ValueOf(c).Elem())
	return all
}

// loadConfig returns the settings of the file (none if its name is empty),
// overridden by the environment, overridden by the flags: their texts by the
// name of the setting. unknown lists variables that look like settings and are
// none; they may belong to others, so they are no error.
func loadConfig(file string, environ []string, flags map[string]string) (c Config, unknown []string, err error) {
	c = defaultConfig()
	all := settingsOf(&c)
	var problems []error
	if file != "" {
		problems = append(problems, all.readFile(file))
	}
	unknown, err = all.readEnv(environ)
	problems = append(problems, err)
	for name, text := range flags {
		problems = append(problems, all[name].set(text, "flag --"+flagNames[name]))
	}
	if err := errors.Join(problems...); err != nil {
		return c, unknown, err
	}
	return c, unknown, c.check(func(name string) string { return all[name].source })
}

// readEnv sets what the environment has, and lists what looks like a setting
// and is none.
func (all settings) readEnv(environ []string) (unknown []string, err error) {
	byEnv := map[string]*setting{}
	for _, s := range all {
		byEnv[s.env()] = s
	}
	var problems []error
	for _, kv := range environ {
		name, text, _ := strings.Cut(kv, "=")
		rest, ours := strings.CutPrefix(name, envPrefix)
		section, key, _ := strings.Cut(strings.ToLower(rest), "_")
		if s := byEnv[name]; s != nil {
			problems = append(problems, s.set(text, "environment "+name))
		} else if ours && key != "" && all.hasSection(section) {
			unknown = append(unknown, name)
		}
	}
	return unknown, errors.Join(problems...)
}

func (all settings) readFile(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	return all.readYAML(path, text)
}

// readYAML reads sections of keys with plain values. Errors name file and line.
func (all settings) readYAML(path string, text []byte) error {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		var broken yaml.Error
		if errors.As(err, &broken) && broken.GetToken() != nil {
			at := broken.GetToken().Position
			return fmt.Errorf("%s:%d:%d: %s", path, at.Line, at.Column, broken.GetMessage())
		}
		return fmt.Errorf("%s: %w", path, err)
	}
	var problems []error
	documents := 0
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if documents++; documents > 1 {
			problems = append(problems, fmt.Errorf("%s: a second document begins", at(path, doc.Body)))
			break
		}
		problems = append(problems, all.readNode(path, "", doc.Body))
	}
	return errors.Join(problems...)
}

// readNode reads the mapping of a section; that of the whole file is "".
func (all settings) readNode(path, section string, n ast.Node) error {
	var pairs []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	case *ast.NullNode: // a section whose keys are all commented out
		return nil
	default:
		return fmt.Errorf("%s: %s must hold keys with values", at(path, n), orFile(section))
	}
	var problems []error
	for _, pair := range pairs {
		key := pair.Key.GetToken()
		name := strings.TrimPrefix(section+"."+key.Value, ".")
		where := at(path, pair.Key)
		switch s := all[name]; {
		case s != nil:
			text, err := plainText(pair.Value)
			if err == nil {
				err = s.set(text, where)
			} else {
				err = fmt.Errorf("%s: %s: %w", where, name, err)
			}
			problems = append(problems, err)
		case section == "" && all.hasSection(name):
			problems = append(problems, all.readNode(path, name, pair.Value))
		default:
			problems = append(problems, fmt.Errorf("%s: unknown key %s", where, name))
		}
	}
	return errors.Join(problems...)
}

func (all settings) hasSection(section string) bool {
	for name := range all {
		if strings.HasPrefix(name, section+".") {
			return true
		}
	}
	return false
}

// plainText returns the text of a scalar, or of a list of scalars with commas.
func plainText(n ast.Node) (string, error) {
	switch n := n.(type) {
	case *ast.NullNode:
		return "", errors.New("has no value; leave the key out for its default")
	case *ast.StringNode:
		return n.Value, nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, nil
	case *ast.SequenceNode:
		var words []string
		for _, item := range n.Values {
			word, err := plainText(item)
			if err != nil {
				return "", err
			}
			words = append(words, word)
		}
		return strings.Join(words, ","), nil
	}
	return "", errors.New("must be a plain value or a list of them")
}

func at(path string, n ast.Node) string {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return fmt.Sprintf("%s:%d", path, t.Position.Line)
	}
	return path
}

func orFile(section string) string {
	if section == "" {
		return "the file"
	}
	return section
}
