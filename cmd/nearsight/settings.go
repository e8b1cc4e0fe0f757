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
			switch key := f.Tag.Get("key"); {
			case key != "":
				all[prefix+key] = &setting{prefix + key, v.Field(i), f.Tag, "default"}
			case f.Type.Kind() == reflect.Map: // of stores: they come with what names them
			default:
				walk(strings.ToLower(f.Name)+".", v.Field(i))
			}
		}
	}
	walk("", reflect.ValueOf(c).Elem())
	for name, s := range c.Stores {
		walk(storesPrefix+name+".", reflect.ValueOf(s).Elem())
	}
	return all
}

// storesPrefix is what the settings of a store, NAME.key, have before them.
const storesPrefix = "stores."

// addStore makes the settings of a store that is mentioned for the first time.
func (all settings) addStore(c *Config, name string) error {
	if all.hasSection(storesPrefix + name) {
		return nil
	}
	if !validStoreName(name) {
		return fmt.Errorf("%.80q cannot be the name of a store: it takes a-z, 0-9 and -, and begins with a letter or digit", name)
	}
	if c.Stores == nil {
		c.Stores = map[string]*Store{}
	}
	s := &Store{}
	c.Stores[name] = s
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		f := v.Type().Field(i)
		full := storesPrefix + name + "." + f.Tag.Get("key")
		all[full] = &setting{full, v.Field(i), f.Tag, "default"}
	}
	return nil
}

// validStoreName is narrower than what a store takes: an underscore would make
// the environment ambiguous, and a dot the names of settings.
func validStoreName(name string) bool {
	return name != "" && len(name) <= 64 && name[0] != '-' && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
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
		problems = append(problems, all.readFile(&c, file))
	}
	unknown, err = all.readEnv(&c, environ)
	problems = append(problems, err)
	for name, text := range flags {
		problems = append(problems, all[name].set(text, "flag --"+flagNames[name]))
	}
	if err := errors.Join(problems...); err != nil {
		return c, unknown, err
	}
	c.setForRole(all)
	for name, s := range c.Stores {
		problems = append(problems, s.check(name, all))
	}
	problems = append(problems, c.checkOrigin(all))
	problems = append(problems, c.check(func(name string) string { return all[name].source }))
	return c, unknown, errors.Join(problems...)
}

// readEnv sets what the environment has, and lists what looks like a setting
// and is none.
func (all settings) readEnv(c *Config, environ []string) (unknown []string, err error) {
	var problems []error
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if rest, ok := strings.CutPrefix(name, envPrefix+"STORES_"); ok {
			if store, _, ok := strings.Cut(strings.ToLower(rest), "_"); ok {
				if err := all.addStore(c, store); err != nil {
					problems = append(problems, fmt.Errorf("environment %s: %w", name, err))
				}
			}
		}
	}
	byEnv := map[string]*setting{}
	for _, s := range all {
		byEnv[s.env()] = s
	}
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

func (all settings) readFile(c *Config, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	return all.readYAML(c, path, text)
}

// readYAML reads sections of keys with plain values. Errors name file and line.
func (all settings) readYAML(c *Config, path string, text []byte) error {
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
		problems = append(problems, all.readNode(c, path, "", doc.Body))
	}
	return errors.Join(problems...)
}

// readNode reads the mapping of a section; that of the whole file is "".
func (all settings) readNode(c *Config, path, section string, n ast.Node) error {
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
		case section == "" && (all.hasSection(name) || name+"." == storesPrefix):
			problems = append(problems, all.readNode(c, path, name, pair.Value))
		case section+"." == storesPrefix:
			if err := all.addStore(c, key.Value); err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", where, err))
			} else {
				problems = append(problems, all.readNode(c, path, name, pair.Value))
			}
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
