package db

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// pollEvery is how late a commit of another process is heard of when nothing tells of
// it, and how soon a lost connection is made again.
const pollEvery = time.Second

// Run hears of the commits of other processes, for Options.Notify, and says for this
// one that it is there (see Abandoned), until ctx ends; it returns nil then. Whatever
// happens to its connections, what was committed is told of within a second of the
// database being there again. No other process writes to a file: there it only waits.
func (d *DB) Run(ctx context.Context) error {
	if d.server == nil {
		<-ctx.Done()
		return nil
	}
	var listening sync.WaitGroup
	listening.Go(func() { d.listen(ctx, d.server.config) })
	defer listening.Wait()
	poll, beat := time.NewTicker(pollEvery), time.NewTicker(beatEvery)
	defer poll.Stop()
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
			// What fails now is tried again soon, and others hear of the failure.
			if revision, err := d.Revision(ctx); err == nil {
				d.hear(revision)
			}
		case <-beat.C:
			_ = d.beat(ctx)
		}
	}
}

// hear tells of a revision, if nobody was told of it or of a later one.
func (d *DB) hear(revision int64) {
	if revision > d.heard.Load() {
		d.told(revision)
	}
}

// listen hears what others tell, over connections of its own, until ctx ends.
func (d *DB) listen(ctx context.Context, config *pgx.ConnConfig) {
	quiet := false // the log has heard that the connection is lost
	for {
		err := d.listenOnce(ctx, config, func() {
			if quiet {
				d.log.Info("commits of other nodes are heard of at once again")
			}
			quiet = false
		})
		if ctx.Err() != nil {
			return
		}
		if !quiet {
			d.log.Warn("commits of other nodes are heard of late: the connection for it is lost", "database", d.name, "err", err)
			quiet = true
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return
		}
	}
}

// listenOnce hears what others tell until the connection is lost, and calls ready when
// it begins to.
func (d *DB) listenOnce(ctx context.Context, config *pgx.ConnConfig, ready func()) error {
	conn, err := pgx.ConnectConfig(ctx, config.Copy())
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), pollEvery)
		defer cancel()
		_ = conn.Close(closing) // it is of no more use, whatever that says
	}()
	var schema string
	if err := conn.QueryRow(ctx, "SELECT current_schema()").Scan(&schema); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return err
	}
	ready()
	for {
		note, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		if text, ok := strings.CutPrefix(note.Payload, schema+" "); ok {
			if revision, err := strconv.ParseInt(text, 10, 64); err == nil {
				d.hear(revision)
			}
		}
	}
}
