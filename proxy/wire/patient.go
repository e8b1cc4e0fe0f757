package wire

import (
	"net"
	"time"
)

// Patient returns a listener whose TCP connections are Conns with this stall, for a
// net/http server that has no Server before it. 0 means DefaultStall.
func Patient(l net.Listener, stall time.Duration) net.Listener {
	if stall <= 0 {
		stall = DefaultStall
	}
	return &patient{l, stall}
}

type patient struct {
	net.Listener
	stall time.Duration
}

// Accept implements net.Listener.
func (l *patient) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nc, nil
	}
	c, err := newConn(tcp, l.stall, nil)
	if err != nil {
		return nc, nil // a socket without a descriptor: its first read will tell
	}
	return c, nil
}
