package main

import (
	"cmp"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"nearsight/registry/client"
)

const defaultServer = "http://127.0.0.1:9292"

// registerConnection gives cmd and all commands below it the flags that say which
// server they speak to, and as whom.
func registerConnection(cmd *cobra.Command) {
	flags := cmd.PersistentFlags()
	flags.String("server", defaultServer, "`URL` of the server that client commands speak to; also NEARSIGHT_SERVER")
	flags.String("token", "", "`TOKEN` that tells the server who you are; better in NEARSIGHT_TOKEN, as all users\nof this machine can see the arguments of a command")
	flags.String("cacert", "", "`FILE` with the certificates that vouch for the server; also OS_CACERT")
	flags.Bool("insecure", false, "accept any certificate of the server; also OS_INSECURE")
}

// A connection is how client commands reach a server: what flags say, then
// NEARSIGHT_*, then the OS_* variables of an OpenStack shell.
type connection struct {
	server, token     string
	cacert, cert, key string // files; "" for those of the system, and for none
	insecure          bool
	login             bool // the OS_* variables say how; server may be "", for that of the catalog
}

// connectionOf returns the connection of a command line. It is a usageError if an
// OpenStack shell describes its login by a file, which is not read here.
func connectionOf(cmd *cobra.Command) (connection, error) {
	c := connection{
		server:   cmp.Or(flagText(cmd, "server"), os.Getenv("NEARSIGHT_SERVER")),
		token:    cmp.Or(flagText(cmd, "token"), firstOf("NEARSIGHT_TOKEN", "OS_AUTH_TOKEN", "OS_TOKEN")),
		cacert:   cmp.Or(flagText(cmd, "cacert"), os.Getenv("OS_CACERT")),
		cert:     os.Getenv("OS_CERT"),
		key:      os.Getenv("OS_KEY"),
		insecure: asked(cmd, "insecure") || truthy(os.Getenv("OS_INSECURE")),
	}
	if c.server != "" {
		return c, nil // whoever names the server knows whether it wants a token
	}
	c.server = withoutVersion(firstOf("OS_IMAGE_ENDPOINT_OVERRIDE", "OS_IMAGE_URL", "OS_ENDPOINT", "OS_URL"))
	if os.Getenv("OS_AUTH_TYPE") == "none" { // keystoneauth's word for a server that asks nobody
		c.server = cmp.Or(c.server, defaultServer)
		return c, nil
	}
	switch {
	case c.server != "" && c.token != "":
		return c, nil
	case os.Getenv("OS_AUTH_URL") != "":
		c.login = true // for the token or the catalog, or both
		return c, nil
	case os.Getenv("OS_CLOUD") != "" && c.token == "":
		return c, usagef("OS_CLOUD names a login in clouds.yaml, which nearsight does not read: " +
			"set OS_AUTH_URL and the like instead, or give it a token, with NEARSIGHT_TOKEN or OS_TOKEN, or name the server with --server")
	case os.Getenv("OS_CLOUD") != "" && c.server == "":
		return c, usagef("which server? Name it with --server, NEARSIGHT_SERVER or OS_IMAGE_ENDPOINT_OVERRIDE")
	}
	c.server = cmp.Or(c.server, defaultServer)
	return c, nil
}

// flagText returns the value of a flag that was given, or "".
func flagText(cmd *cobra.Command, name string) string {
	if f := cmd.Flag(name); f != nil && f.Changed {
		return f.Value.String()
	}
	return ""
}

// firstOf returns the value of the first of these environment variables that has
// one.
func firstOf(names ...string) string {
	for _, name := range names {
		if s := os.Getenv(name); s != "" {
			return s
		}
	}
	return ""
}

func truthy(s string) bool {
	return slices.Contains([]string{"1", "true", "yes", "on", "t", "y"}, strings.ToLower(s))
}

// withoutVersion cuts the version of the API that endpoints may end with.
func withoutVersion(endpoint string) string {
	return regexp.MustCompile(`/(v[0-9.]+/*)?$`).ReplaceAllString(endpoint, "")
}

// userAgent is what the program calls itself.
func userAgent() string { return "nearsight/" + strings.Trim(readVersion().Version, "()") }

// clientOptions returns the options of clients for the command line.
func clientOptions(cmd *cobra.Command) (client.Options, error) {
	c, err := connectionOf(cmd)
	if err != nil {
		return client.Options{}, err
	}
	opt := client.Options{
		Server: c.server, UserAgent: userAgent(), Token: c.token,
		CAFile: c.cacert, CertFile: c.cert, KeyFile: cmp.Or(c.key, c.cert), Insecure: c.insecure, // a file may hold both
	}
	if !c.login {
		return opt, nil
	}
	l, err := newLogin(opt)
	if err != nil {
		return opt, err
	}
	opt.Token, opt.TokenSource = "", l.token
	if opt.Server == "" {
		opt.Server, err = l.endpoint(cmd.Context())
	}
	return opt, err
}

// newClient returns a client for the server of the command line.
func newClient(cmd *cobra.Command) (*client.Client, error) {
	opt, err := clientOptions(cmd)
	if err != nil {
		return nil, err
	}
	c, err := client.New(opt)
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}
