package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// ticksPerSecond is the unit of times in /proc (USER_HZ), on every
	// architecture that Go knows.
	ticksPerSecond = 100
	// memoryInterval is how often memory is looked at.
	memoryInterval = 50 * time.Millisecond
)

// A processID is a process that is not mistaken for a later one of that number.
type processID struct {
	pid     int
	started string // the 22nd field of /proc/PID/stat
}

type processes []processID

// findProcesses returns the processes of these numbers and all below them.
func findProcesses(roots ...int) processes {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	children := map[int][]int{}
	started := map[int]string{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if f := statFields(pid); len(f) > 19 {
			parent, _ := strconv.Atoi(f[1])
			children[parent] = append(children[parent], pid)
			started[pid] = f[19]
		}
	}
	var all processes
	seen := map[int]bool{}
	for len(roots) > 0 {
		pid := roots[0]
		roots = append(roots[1:len(roots):len(roots)], children[pid]...)
		if s, ok := started[pid]; ok && !seen[pid] {
			seen[pid] = true
			all = append(all, processID{pid, s})
		}
	}
	return all
}

// statFields returns /proc/PID/stat from the third field, the state, on.
func statFields(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	i := bytes.LastIndexByte(b, ')')
	if err != nil || i < 0 {
		return nil
	}
	return strings.Fields(string(b[i+1:]))
}

// alive reports whether it runs: a zombie does not.
func (p processID) alive() bool {
	f := statFields(p.pid)
	return len(f) > 19 && f[0] != "Z" && f[19] == p.started
}

// cpu returns the processor time that they have used, in seconds.
func (ps processes) cpu() (user, system float64) {
	for _, p := range ps {
		if f := statFields(p.pid); len(f) > 12 {
			u, _ := strconv.ParseFloat(f[11], 64)
			s, _ := strconv.ParseFloat(f[12], 64)
			user += u / ticksPerSecond
			system += s / ticksPerSecond
		}
	}
	return user, system
}

// memory returns what is resident, and what of it is not of files, in MiB.
func (ps processes) memory() (all, anonymous float64) {
	for _, p := range ps {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
		if err != nil {
			continue // it ended
		}
		for line := range strings.Lines(string(b)) {
			name, value, _ := strings.Cut(line, ":")
			kib, _ := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			switch name {
			case "VmRSS":
				all += kib / 1024
			case "RssAnon":
				anonymous += kib / 1024
			}
		}
	}
	return all, anonymous
}

// busy returns how long all cores have worked since the machine started, in
// seconds.
func busy() float64 {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	sum := 0.0
	for i, text := range strings.Fields(line) {
		if i == 0 || i == 4 || i == 5 || i > 8 { // the name, idle, iowait, guests
			continue
		}
		v, _ := strconv.ParseFloat(text, 64)
		sum += v / ticksPerSecond
	}
	return sum
}

// ownCPU returns the processor time of this process, in seconds.
func ownCPU() float64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()).Seconds()
}

// A foreigner watches what processes outside the benchmark take of the machine.
type foreigner struct {
	ours  processes
	start time.Time
	used  float64
}

func (j *job) watchForeign() foreigner {
	f := foreigner{ours: findProcesses(append(j.Server[:len(j.Server):len(j.Server)], j.Aux...)...), start: time.Now()}
	f.used = f.foreign()
	return f
}

func (f foreigner) foreign() float64 {
	user, system := f.ours.cpu()
	return busy() - user - system - ownCPU()
}

// noise returns how many cores they used since the watch began.
func (f foreigner) noise() float64 {
	return max(0, (f.foreign()-f.used)/time.Since(f.start).Seconds())
}

// A meter measures a server while a load is on it.
type meter struct {
	server           processes
	foreign          foreigner
	start            time.Time
	user0, system0   float64
	memory, anon     float64 // MiB, the most that was seen
	stop             chan struct{}
	watching         sync.WaitGroup
	user, system     float64 // seconds, after end
	seconds, outside float64 // after end: duration, noise in cores
}

func (j *job) startMeter() *meter {
	m := &meter{server: findProcesses(j.Server...), foreign: j.watchForeign(), start: time.Now(), stop: make(chan struct{})}
	m.user0, m.system0 = m.server.cpu()
	m.look()
	m.watching.Go(func() {
		often := time.NewTicker(memoryInterval)
		defer often.Stop()
		for {
			select {
			case <-m.stop:
				return
			case <-often.C:
				m.look()
			}
		}
	})
	return m
}

func (m *meter) look() {
	all, anon := m.server.memory()
	m.memory, m.anon = max(m.memory, all), max(m.anon, anon)
}

// end takes the figures and stops watching.
func (m *meter) end() {
	user, system := m.server.cpu()
	m.seconds, m.outside = time.Since(m.start).Seconds(), m.foreign.noise()
	m.user, m.system = user-m.user0, system-m.system0
	close(m.stop)
	m.watching.Wait()
}
