package wire

import (
	"encoding/binary"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// fair lets other connections go on when this one has had its turn.
//
// A goroutine whose client takes and asks as fast as it is served never waits for
// the network, and the runtime asks the kernel for connections that are ready
// only when it has nothing else to run, or else every 10 ms. Others would wait so
// long. runtime.Gosched does not change that: this goroutine would just be the
// next to run. So it waits for the network, for an event that is there already:
// the runtime learns of it together with all others that are ready.
func (c *Conn) fair() {
	if c.turn < maxTurn {
		return
	}
	c.turn = 0
	y := c.yielders.take()
	if y == nil { // there is no descriptor to spare
		runtime.Gosched()
		return
	}
	y.yield()
	c.yielders.put(y)
}

// maxYielders is how many are kept.
const maxYielders = 16

// yielders keeps those that nobody uses.
type yielders chan *yielder

func (ys yielders) take() *yielder {
	select {
	case y := <-ys:
		return y
	default:
		return newYielder()
	}
}

func (ys yielders) put(y *yielder) {
	select {
	case ys <- y:
	default:
		y.file.Close()
	}
}

// close closes those that are kept.
func (ys yielders) close() {
	for {
		select {
		case y := <-ys:
			y.file.Close()
		default:
			return
		}
	}
}

// A yielder is an eventfd(2).
type yielder struct {
	file *os.File
	raw  syscall.RawConn
	told bool
	wait func(fd uintptr) bool
}

func newYielder() *yielder {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil
	}
	y := &yielder{file: os.NewFile(uintptr(fd), "eventfd")}
	if y.raw, err = y.file.SyscallConn(); err != nil {
		y.file.Close()
		return nil
	}
	y.wait = y.tell
	return y
}

func (y *yielder) yield() {
	y.told = false
	y.raw.Read(y.wait) // its errors can only end the wait early
}

// tell first writes the event, so that it comes after the runtime has begun to
// listen for it, and then takes it off.
func (y *yielder) tell(fd uintptr) (done bool) {
	var b [8]byte
	if !y.told {
		y.told = true
		binary.NativeEndian.PutUint64(b[:], 1)
		_, err := unix.Write(int(fd), b[:])
		return err != nil
	}
	_, err := unix.Read(int(fd), b[:])
	return err != unix.EAGAIN
}
