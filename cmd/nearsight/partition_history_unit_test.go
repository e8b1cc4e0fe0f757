package main

import (
	"strings"
	"testing"
	"time"
)

// The checker of the partition tests accepts what is promised, and nothing else.
func TestHistoriesFindWhatIsWrong(t *testing.T) {
	start := time.Now()
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	open := state{shared: true, member: true}
	renamed, unshared, published := open, open, open
	renamed.n, unshared.member, published.public = 1, false, true
	off, gone := open, open
	off.deactivated, gone.deleted = true, true
	p := promise{max: 3 * time.Second, unproved: 10 * time.Second, unprovedPublic: time.Hour}

	for _, tt := range []struct {
		name          string
		before, after state
		acked         bool // the change from 10 to 11
		o             observation
		at            float64
		from          int
		wrong         string
	}{
		{"the state before, in time", open, unshared, true, observation{caller: asOther, what: theData, status: 200}, 13.9, 0, ""},
		{"the state before, too late", open, unshared, true, observation{caller: asOther, what: theData, status: 200}, 14.1, 0, "acknowledged 3.1s before"},
		{"the state before, too late, and unproved", open, unshared, true, observation{caller: asOther, what: theData, status: 200, stale: true}, 20.9, 0, ""},
		{"unproved for too long", open, unshared, true, observation{caller: asOther, what: theData, status: 206, stale: true}, 21.1, 0, "acknowledged 10.1s before"},
		{"public images are unproved for longer", published, open, true, observation{caller: asOther, what: theData, status: 200, stale: true}, 3000, 0, ""},
		{"the new state", open, unshared, true, observation{caller: asOther, what: theData, status: 404}, 14.1, 0, ""},
		{"the new state before the answer", open, unshared, true, observation{caller: asOther, what: theData, status: 404}, 10.5, 0, ""},
		{"the new state before the request", open, unshared, true, observation{caller: asOther, what: theData, status: 404}, 9, 0, "nobody had made it so"},
		{"back to the state before", open, unshared, true, observation{caller: asOther, what: theData, status: 200}, 12, 1, "goes back to version 0 from 1"},
		{"a change that was not acknowledged may have happened", open, gone, false, observation{caller: asOwner, what: theData, status: 404}, 60, 0, ""},
		{"or not", open, gone, false, observation{caller: asOwner, what: theData, status: 200}, 60, 0, ""},
		{"but not both", open, gone, false, observation{caller: asOwner, what: theData, status: 200}, 60, 1, "goes back"},
		{"a deactivated image gives no data", open, off, true, observation{caller: asOwner, what: theData, status: 200}, 15, 0, "acknowledged 4s before"},
		{"and is refused", open, off, true, observation{caller: asOwner, what: theData, status: 403}, 15, 0, ""},
		{"its record is shown", open, off, true, observation{caller: asOther, what: theRecord, status: 200}, 15, 0, ""},
		{"an old record", open, renamed, true, observation{caller: asOwner, what: theRecord, status: 200, n: 0}, 15, 0, "acknowledged 4s before"},
		{"the new record", open, renamed, true, observation{caller: asOwner, what: theRecord, status: 200, n: 1}, 15, 0, ""},
		{"a record that there never was", open, renamed, true, observation{caller: asOwner, what: theRecord, status: 200, n: 2}, 15, 0, "never was like that"},
		{"wrong bytes", open, renamed, true, observation{caller: asOwner, what: theData, status: 200, wrong: true}, 15, 0, "never was like that"},
		{"an image that is lost", open, renamed, true, observation{caller: asOwner, what: theRecord, status: 404}, 15, 0, "never was like that"},
		{"a server in trouble says nothing", open, renamed, true, observation{caller: asOwner, what: theRecord, status: 503}, 15, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &history{id: "image", versions: []version{
				{state: tt.before, change: "create", began: at(0), acked: at(1)},
				{state: tt.after, change: "change", began: at(10)},
			}}
			if tt.acked {
				h.versions[1].acked = at(11)
			}
			tt.o.began, tt.o.ended = at(tt.at), at(tt.at+0.1)
			wrong := view{h: tt.from}.look(h, &tt.o, p)
			if (tt.wrong == "") != (wrong == "") || !strings.Contains(wrong, tt.wrong) {
				t.Errorf("the checker says %q, want %q", wrong, tt.wrong)
			}
		})
	}
}
