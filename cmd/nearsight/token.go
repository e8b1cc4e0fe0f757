package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nearsight/registry"
	"nearsight/registry/identity"
)

// tokensEnv is the setting identity.tokens in the environment.
const tokensEnv = envPrefix + "IDENTITY_TOKENS"

func newTokenCommand() *cobra.Command {
	cmd := newGroup("token", "Give and take tokens of a server", `
Give and take the tokens by which a server knows its callers, in the file that its
setting identity.tokens names. The file holds hashes: whoever steals it can use none.
A server that runs follows it within a second.

These commands need the file, and no server.`)
	cmd.Example = `  nearsight token create --file tokens.json --project web --role member
  nearsight token ls --file tokens.json`
	cmd.PersistentFlags().String("file", "", "`FILE` of the tokens; also "+tokensEnv)
	cmd.AddCommand(newTokenCreateCommand(), newTokenListCommand(), newTokenRemoveCommand())
	return cmd
}

// tokenFile returns the file that the command is about.
func tokenFile(cmd *cobra.Command) (string, error) {
	file := cmp.Or(flagText(cmd, "file"), os.Getenv(tokensEnv))
	if file == "" {
		return "", usagef("which file? Name it with --file or %s", tokensEnv)
	}
	return file, nil
}

func newTokenCreateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token and print it, once",
		Long: `
Make a token and print it. It is kept nowhere: whoever loses it makes another.

Roles are admin, member, reader and service. Admins may do everything, members work
with the images of their project, readers look at them, and services help other parts
of a cloud with the locations of images.`,
		Example: `  nearsight token create --file tokens.json --role admin
  nearsight token create --file tokens.json --project web --role member --user anna --expires 720h
  NEARSIGHT_TOKEN=$(nearsight token create -q --file tokens.json --project web --role reader)`,
		Args: takes(0, 0),
		RunE: createToken,
	}
	flags := cmd.Flags()
	flags.String("project", "", "`PROJECT` that the holder's images belong to; admins and services need none")
	flags.StringSlice("role", nil, "`ROLE` of the holder; more with commas, or by repeating it")
	flags.String("user", "", "`USER` who holds it, for the records")
	flags.String("name", "", "`NAME` by which it is listed and removed; by default made of the user or the project")
	flags.Duration("expires", 0, "how long it is good, like 720h; for ever by default")
	return cmd
}

func createToken(cmd *cobra.Command, _ []string) error {
	file, err := tokenFile(cmd)
	if err != nil {
		return err
	}
	roles, err := cmd.Flags().GetStringSlice("role")
	if err != nil {
		return err
	}
	life, err := cmd.Flags().GetDuration("expires")
	if err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Second)
	t := identity.Token{
		Name: flagText(cmd, "name"), Project: flagText(cmd, "project"), User: flagText(cmd, "user"),
		Roles: roles, Created: now,
	}
	if cmd.Flag("expires").Changed {
		if life <= 0 {
			return usagef("--expires: %s is not in the future", life)
		}
		end := now.Add(life)
		t.Expires = &end
	}
	named := t
	named.Name = cmp.Or(t.Name, "new")
	if err := named.Check(); err != nil {
		return usageError{err}
	}
	t, secret := identity.New(t)
	err = identity.Edit(file, func(tokens []identity.Token) ([]identity.Token, error) {
		if t.Name == "" {
			t.Name = freeName(tokens, cmp.Or(t.User, t.Project, t.Roles[0]))
		} else if hasToken(tokens, t.Name) {
			return nil, fmt.Errorf("%w: there is a token called %q already", registry.ErrConflict, t.Name)
		}
		return append(tokens, t), nil
	})
	if err != nil {
		return err
	}
	if asked(cmd, "json") {
		return printJSON(cmd, struct {
			shownToken
			Token string `json:"token"`
		}{showToken(t), secret})
	}
	note(cmd, "token %s was made; it is not shown again", t.Name)
	_, err = fmt.Fprintln(cmd.OutOrStdout(), secret)
	return err
}

func hasToken(tokens []identity.Token, name string) bool {
	return slices.ContainsFunc(tokens, func(t identity.Token) bool { return t.Name == name })
}

// freeName returns base, or the first of base-2, base-3, ... that no token has.
func freeName(tokens []identity.Token, base string) string {
	name := base
	for i := 2; hasToken(tokens, name); i++ {
		name = base + "-" + strconv.Itoa(i)
	}
	return name
}

// A shownToken is what is shown of a token.
type shownToken struct {
	Name    string     `json:"name"`
	Project string     `json:"project"`
	User    string     `json:"user"`
	Roles   []string   `json:"roles"`
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires"` // null: never
}

func showToken(t identity.Token) shownToken {
	return shownToken{t.Name, t.Project, t.User, t.Roles, t.Created, t.Expires}
}

func newTokenListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the tokens: who holds them, not what they are",
		Example: `  nearsight token ls --file tokens.json
  nearsight token ls --file tokens.json --json | jq -r '.[] | select(.project == "web").name'`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := tokenFile(cmd)
			if err != nil {
				return err
			}
			tokens, err := identity.Read(file)
			if err != nil {
				return err
			}
			if asked(cmd, "json") {
				list := []shownToken{}
				for _, t := range tokens {
					list = append(list, showToken(t))
				}
				return printJSON(cmd, list)
			}
			rows := [][]string{{"NAME", "PROJECT", "USER", "ROLES", "CREATED", "EXPIRES"}}
			for _, t := range tokens {
				rows = append(rows, []string{
					t.Name, orDash(t.Project), orDash(t.User), strings.Join(t.Roles, ","), t.Created.UTC().Format(time.RFC3339), expiry(t),
				})
			}
			return printTable(cmd, rows)
		},
	}
}

// expiry says when a token ends, and whether it has.
func expiry(t identity.Token) string {
	switch {
	case t.Expires == nil:
		return "never"
	case !time.Now().Before(*t.Expires):
		return t.Expires.UTC().Format(time.RFC3339) + " (expired)"
	}
	return t.Expires.UTC().Format(time.RFC3339)
}

func newTokenRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME...",
		Short: "Remove tokens: who holds them is nobody any more",
		Long: `
Remove tokens, by the names that token ls shows: who holds them is nobody any more, a
second later. All are removed or, if there is none of one name, none.`,
		Example: `  nearsight token rm --file tokens.json anna web-2`,
		Args:    takes(1, -1),
		RunE: func(cmd *cobra.Command, names []string) error {
			file, err := tokenFile(cmd)
			if err != nil {
				return err
			}
			if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("read tokens: %w", err) // rather than make one
			}
			return identity.Edit(file, func(tokens []identity.Token) ([]identity.Token, error) {
				for _, name := range names {
					if !hasToken(tokens, name) {
						return nil, missingToken(name)
					}
				}
				return slices.DeleteFunc(tokens, func(t identity.Token) bool { return slices.Contains(names, t.Name) }), nil
			})
		},
	}
}

// A missingToken is the name of a token that is not there. It is ErrNotFound without
// the words about images.
type missingToken string

func (name missingToken) Error() string {
	return fmt.Sprintf("there is no token called %q", string(name))
}
func (missingToken) Unwrap() error { return registry.ErrNotFound }
