package bus_test

import (
	"sort"
	"testing"
	"time"

	"nearsight/registry"
	"nearsight/registry/bus"
)

// From the commit of a change to three watchers, one change at a time.
func BenchmarkDelivery(b *testing.B) {
	for _, way := range []string{"local", "redis"} {
		b.Run(way, func(b *testing.B) {
			table := newTable()
			var events registry.Events = table.local()
			if way == "redis" {
				server, _, stream := shared(b)
				publish(b, bus.PublisherOptions{Server: server, Stream: stream, Local: table.local()})
				events = bus.NewRedis(bus.RedisOptions{Server: server, Stream: stream, Log: table})
			}
			const watchers = 3
			heard := make(chan struct{}, watchers)
			for range watchers {
				w := watch(b, table, events, 0, func(e registry.Event) {
					if e.Kind != registry.EventNone {
						heard <- struct{}{}
					}
				})
				defer w.stop()
			}
			change := func() time.Duration {
				start := time.Now()
				table.add(1)
				for range watchers {
					<-heard
				}
				return time.Since(start)
			}
			change() // all are connected then
			var took []time.Duration
			for b.Loop() {
				took = append(took, change())
			}
			sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
			b.ReportMetric(float64(took[len(took)-1].Microseconds()), "max-us")
		})
	}
}
