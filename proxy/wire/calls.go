package wire

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What follows are calls that never block on the sockets of this package, and are
// short: so the scheduler is not told of them, which would cost as much as some of
// them do.

// A receiver reads from a socket, and learns with the bytes whether more are there.
type receiver struct {
	message unix.Msghdr
	part    unix.Iovec
	control struct { // from the kernel
		header unix.Cmsghdr
		left   int32 // bytes; 1 for the end of the stream
	}
}

// tellRest has the kernel tell receivers what is left (TCP_INQ). Where it cannot,
// they take it that there is more.
func tellRest(raw syscall.RawConn) {
	raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_INQ, 1) })
}

// recv reads into b. If more is false, then neither bytes nor the end of the stream
// were there when it returned.
func (r *receiver) recv(fd uintptr, b []byte) (n int, more bool, err error) {
	r.part.Base = unsafe.SliceData(b)
	r.part.SetLen(len(b))
	r.message.Iov = &r.part
	r.message.SetIovlen(1)
	r.message.Control = (*byte)(unsafe.Pointer(&r.control))
	r.message.SetControllen(int(unsafe.Sizeof(r.control)))
	k, _, e := unix.RawSyscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&r.message)), 0)
	if e != 0 {
		return 0, false, e
	}
	told := r.message.Controllen > 0 && r.control.header.Type == unix.TCP_CM_INQ
	more = !told || r.control.left != 0
	return int(k), more, nil
}

func sendto(fd uintptr, b []byte, flags int) (int, error) {
	n, _, e := unix.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(flags), 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}
