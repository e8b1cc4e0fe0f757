package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"nearsight/registry/db"
)

func newMigrateCommand() *cobra.Command {
	cmd := newGroup("migrate", "Look after the tables of the registry", `
Look after the tables of the registry. serve brings older tables up to date when it
starts; migrate upgrade does so without starting it, and migrate version only looks.

They read the configuration as serve does, and work on the database itself: on the
machine of the server and as its user.`)
	cmd.Example = `  nearsight migrate version --data /var/lib/nearsight
  nearsight migrate upgrade --config /etc/nearsight.yaml`
	cmd.PersistentFlags().String("config", "", "configuration `FILE` of the server; also NEARSIGHT_CONFIG")
	cmd.PersistentFlags().String("data", defaultConfig().Data, "`DIR` of all that the server keeps")
	cmd.AddCommand(newMigrateVersionCommand(), newMigrateUpgradeCommand(), newMigrateDowngradeCommand())
	return cmd
}

// migrating returns the data directory and the database of a server.
func migrating(cmd *cobra.Command) (dir string, database db.Options, err error) {
	f := checkFlags{config: flagText(cmd, "config"), data: flagText(cmd, "data")}
	c, err := f.load(cmd)
	if err != nil {
		return "", db.Options{}, usageError{err}
	}
	return c.Data, c.database(), nil
}

// A tables is the versions of a registry's tables.
type tables struct {
	Database string `json:"database"`
	Version  int64  `json:"version"` // 0: there is no database
	Makes    int64  `json:"program"` // what this program makes
	Current  bool   `json:"current"`
}

func newMigrateVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Aliases: []string{"status", "db-version", "db_version"},
		Short:   "Show the version of the tables, and that of this program",
		Long: `
Show the version of the tables, and that of this program. It may run beside the server.

Exit status: 0 they are the same, 1 they are not, or it failed, 2 wrong usage or
settings.`,
		Example: `  nearsight migrate version`,
		Args:    takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, database, err := migrating(cmd)
			if err != nil {
				return err
			}
			has, makes, err := db.Version(cmd.Context(), database)
			if err != nil {
				return errors.New(err.Error()) // whatever it is, its status is 1
			}
			if err := printVersions(cmd, tables{database.Database(), has, makes, has == makes}); err != nil {
				return err
			}
			switch {
			case has == 0:
				return errors.New("there is no registry: serve or migrate upgrade makes one")
			case has < makes:
				return errors.New("the tables are older than this program: serve or migrate upgrade brings them up to date")
			case has > makes:
				return errors.New("the tables are newer than this program, which cannot use them")
			}
			return nil
		},
	}
}

func printVersions(cmd *cobra.Command, t tables) error {
	if asked(cmd, "json") {
		return printJSON(cmd, t)
	}
	return printTable(cmd, [][]string{
		{"database", t.Database},
		{"version", strconv.FormatInt(t.Version, 10)},
		{"program", strconv.FormatInt(t.Makes, 10)},
	})
}

func newMigrateUpgradeCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "upgrade",
		Aliases: []string{"db-sync", "db_sync"},
		Short:   "Bring the tables up to date",
		Long: `
Bring the tables up to date, all steps or none, or make them if there are none. The
server must be stopped, and so must all that use the same PostgreSQL. There is no way
back but a copy of the file registry.db, or of the database, that was made before.`,
		Example: `  cp -p /var/lib/nearsight/registry.db /var/lib/nearsight/registry.db.before
  nearsight migrate upgrade --data /var/lib/nearsight`,
		Args: takes(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, database, err := migrating(cmd)
			if err != nil {
				return err
			}
			before, makes, err := db.Version(cmd.Context(), database)
			if err != nil {
				return errors.New(err.Error())
			}
			if len(args) == 1 && args[0] != strconv.FormatInt(makes, 10) {
				return usagef("this program brings tables to version %d, and to no other", makes)
			}
			if err := upgrade(cmd, dir, database); err != nil {
				return errors.New(err.Error())
			}
			note(cmd, "the tables were of version %d and are of version %d", before, makes)
			return printVersions(cmd, tables{database.Database(), makes, makes, true})
		},
	}
}

// upgrade migrates the database of a server that does not run.
func upgrade(cmd *cobra.Command, dir string, database db.Options) (err error) {
	if database.URL == "" {
		lock, err := lockData(dir)
		if err != nil {
			return err
		}
		defer lock.Close()
	}
	d, err := db.Open(cmd.Context(), database)
	if err != nil {
		return err
	}
	return d.Close()
}

func newMigrateDowngradeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "downgrade [VERSION]",
		Short: "Say how to get back to older tables",
		Long: `
Say how to get back to older tables: tables are not changed back, since what newer
programs wrote has no place in them.`,
		Example: `  nearsight migrate downgrade 1`,
		Args:    takes(0, 1),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, database, err := migrating(cmd)
			if err != nil {
				return err
			}
			if database.URL != "" {
				return fmt.Errorf("tables are not changed back: what newer programs wrote has no place in older ones, and would be lost. "+
					"To go back, stop all servers that use %s, restore it from what pg_dump wrote before the upgrade, and start the older program; "+
					"images that came since then are not in it (nearsight check shows what of them is in the stores)", database.Database())
			}
			path := database.Path
			return fmt.Errorf("tables are not changed back: what newer programs wrote has no place in older ones, and would be lost. "+
				"To go back, stop the server, put the copy of %s that was made before the upgrade in its place, remove the files %s-wal and %s-shm, "+
				"and start the older program; images that came since then are not in it (nearsight check shows what of them is in the stores of %s)",
				path, filepath.Base(path), filepath.Base(path), dir)
		},
	}
}
