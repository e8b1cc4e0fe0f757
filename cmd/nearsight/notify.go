package main

import (
	"fmt"
	"net"
	"os"
)

// notifyVariable names a socket on which whoever started the server wants to hear of
// it (sd_notify, as systemd has it for units of Type=notify).
const notifyVariable = "NOTIFY_SOCKET"

// notifyReady tells whoever started the server that it answers, if that wants to
// know.
func notifyReady() error {
	path := os.Getenv(notifyVariable)
	if path == "" {
		return nil
	}
	// One that begins with @ is in no file system; package net knows.
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("%s: %w", notifyVariable, err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("READY=1")); err != nil {
		return fmt.Errorf("%s: %w", notifyVariable, err)
	}
	return nil
}
