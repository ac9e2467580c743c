package machine

import (
	"fmt"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

const (
	// stable is how long services must have been healthy before an end counts
	// as the first of a row again.
	stable = time.Minute
	// soak is how long the services of a trial must have been healthy without
	// a break: a service that dies of its own work does so soon.
	soak = 30 * time.Second
	// deafAfter is how long the guest of a trial that was healthy may leave
	// every question unanswered before that counts against it.
	deafAfter = time.Minute
	// maxAttempts bounds the starts of a trial.
	maxAttempts = 3
	// maxPause bounds the pause before a start.
	maxPause = time.Minute
	// hungAfter is how long a guest may leave every question unanswered. It
	// answers from before its data disk is checked until its power is off.
	hungAfter = 5 * time.Minute
	// resumeRoom is what must be free, in bytes, for a machine to go on that
	// was held for a full file system: enough for more than a moment.
	resumeRoom = 64 << 20
)

// act is what is to be done next with an instance: one thing.
type act int

const (
	actNothing   act = iota
	actAdopt         // write down the process of a machine whose starter was killed
	actStart         // start the slot that is to run
	actHalt          // shut the machine down in order
	actNoteEnd       // write down that it ended by itself
	actForget        // forget the ends in a row
	actCommit        // the trial's slot is the active one from now on
	actFail          // the trial has failed
	actReturn        // the trial is over, and the old slot stays
	actResume        // let a machine go on that was held for a full file system
	actCut           // end a machine whose guest hangs
	actKnowDisk      // write down which file system its data disk has
	actRecord        // have the history of its disk written on, and remember that
	actTakeOver      // write down what is wanted of what an older version started
	actSwap          // put the restored disk in its place
	actChallenge     // remember what a witness elsewhere does
	actKeep          // keep a copy of the data disk
	actBack          // put the kept copy in the disk's place
)

// world is what there is besides the record.
type world struct {
	boot string // of the device
	// awake is how long the device has been awake since its boot: a clock that
	// nobody sets, and that stands still while the device sleeps.
	awake   time.Duration
	alive   bool          // the machine runs
	guest   *agent.Status // what the guest said last; nil: nothing
	healthy time.Duration // for how long all that is not optional has been healthy, by its answers
	// services is for how long each has been; those that are not are absent.
	services map[string]time.Duration
	end      string // why the machine ended, where it did
	disk     string // the data disk's file system, where the record does not have it

	// unrecorded: the guest was asked to write its disk's history on, in vain.
	unrecorded bool

	thin bool // its disk takes room as it is written to, and a full host fails its writes
	// These are looked for only when the guest has been silent for a moment,
	// room also where thin.
	silent time.Duration // for how long it has answered nothing
	full   bool          // it is held, as a disk's file system was full
	held   bool          // it is held for another reason
	room   int64         // bytes free in that file system
}

// decision is an act, its reason for people, and where there is none the time
// after which to look again; 0: when something changes.
type decision struct {
	act  act
	why  string
	wait time.Duration
}

// decide is the table in the package comment. It looks at nothing but its
// arguments, so that whoever has the lock goes on where another left off.
func decide(rec *record, w world) decision {
	if rec.Swap != nil {
		if w.alive {
			return decision{act: actHalt, why: "it gets the data disk of " + rec.Swap.From}
		}
		return decision{act: actSwap, why: "restored from " + rec.Swap.From}
	}
	if c := rec.Challenge; c != nil {
		if w.alive {
			return decision{act: actHalt, why: "its data disk is not the one that " + c.By + " remembers"}
		}
		return decision{act: actChallenge, why: "its data disk is held to what " + c.By + " remembers"}
	}
	switch rec.Wanted {
	case notAdopted:
		if w.alive {
			return decision{act: actTakeOver, why: "it runs, and is not started again"}
		}
		return decision{act: actTakeOver, why: "it is down"}
	case Down:
		if w.alive {
			return decision{act: actHalt, why: "it is wanted down"}
		}
		return decision{}
	}
	if w.alive {
		return decideRunning(rec, w)
	}
	return decideStopped(rec, w)
}

func decideRunning(rec *record, w world) decision {
	t := rec.Trial
	switch {
	case rec.Process == nil:
		return decision{act: actAdopt, why: "its starter was killed"}
	case w.disk != "":
		return decision{act: actKnowDisk, why: "its data disk has the file system " + w.disk}
	case w.full && w.room >= resumeRoom:
		return decision{act: actResume, why: "there is room for its disk again"}
	case w.thin && w.room < reserve:
		return decision{act: actHalt, why: fmt.Sprintf("its thin disk is about to have no room: %d MiB are free", w.room>>20)}
	case dueRecord(rec, w):
		return decision{act: actRecord, why: "its disk was written to"}
	case t != nil && t.Why != "":
		return decision{act: actHalt, why: "slot " + string(rec.Active) + " comes back: " + t.Why}
	case t != nil && rec.Slot != t.Slot:
		return decision{act: actHalt, why: t.Kind + " to slot " + string(t.Slot)}
	case t != nil:
		return decideTrial(t, w)
	case w.silent >= hungAfter && !w.full && !w.held && rec.Policy.Restart != RestartNever:
		return decision{act: actCut, why: fmt.Sprintf("the guest hangs: its agent has not answered for %v", hungAfter)}
	case rec.Ends.InARow > 0 && w.healthy >= stable:
		return decision{act: actForget, why: "healthy for " + stable.String()}
	case rec.Ends.InARow > 0 && w.healthy > 0:
		return decision{wait: stable - w.healthy}
	}
	return decision{}
}

// decideTrial judges the machine that runs from the trial's slot: by its
// services, not by what is wrong around them, which the former bundle would
// meet as well.
func decideTrial(t *Trial, w world) decision {
	limit, steady := time.Duration(t.Limit), time.Duration(t.Steady)
	healthy, age := trialHealthy(t, w), w.awake-time.Duration(t.Began)
	switch {
	case w.guest != nil && w.guest.State == agent.StateFailed:
		return decision{act: actFail, why: "the guest failed: " + w.guest.Message}
	case healthy > 0 && healthy >= steady && w.guest != nil:
		return decision{act: actCommit, why: fmt.Sprintf("its services have been healthy for %v", steady)}
	case healthy > 0 && w.silent < deafAfter:
		return decision{wait: max(steady-healthy, time.Second)}
	case w.full || w.held:
		return decision{} // it is kept from becoming so
	case age < 0 || age >= limit:
		return decision{act: actFail, why: fmt.Sprintf("not healthy within %v: %s", limit, condition(w.guest))}
	}
	return decision{wait: limit - age}
}

// trialHealthy is for how long everything that counts for a trial has been. An
// optional service counts that was healthy before; one that the new bundle does
// not have was left out on purpose.
func trialHealthy(t *Trial, w world) time.Duration {
	d := w.healthy
	for _, name := range t.Optional {
		if w.guest != nil {
			if _, ok := w.guest.Service(name); !ok {
				continue
			}
		}
		d = min(d, w.services[name])
	}
	return d
}

// condition says in a line what a guest lacks.
func condition(s *agent.Status) string {
	if s == nil {
		return "its agent does not answer"
	}
	parts := []string{"it is " + string(s.State)}
	if s.Message != "" {
		parts[0] += ", " + s.Message
	}
	for _, v := range s.Services {
		if !v.Healthy {
			parts = append(parts, v.Line())
		}
	}
	return strings.Join(parts, "; ")
}

func decideStopped(rec *record, w world) decision {
	t := rec.Trial
	lost := rec.Process != nil && rec.Process.Boot != w.boot // the host's end, not its own
	switch {
	case t != nil && t.Why != "":
		return decision{act: actReturn, why: t.Why}
	case rec.Process != nil && !lost && t != nil && rec.Slot == t.Slot:
		return decision{act: actFail, why: "it ended before it was healthy: " + w.end}
	case rec.Process != nil:
		return decision{act: actNoteEnd, why: w.end}
	case t != nil && t.Attempt >= maxAttempts:
		return decision{act: actFail, why: fmt.Sprintf("started %d times without becoming healthy", t.Attempt)}
	case t != nil && rec.Waiting != nil && pausedFor(rec.Waiting) >= time.Duration(t.Limit):
		return decision{act: actFail, why: fmt.Sprintf("it could not be started for %v: %s", time.Duration(t.Limit), rec.Waiting.Why)}
	case rec.Waiting != nil:
		return startAfter(nextPause(rec.Waiting), rec.Waiting.Last, w, "another try")
	case t != nil && t.Data == DataKeep:
		return decision{act: actKeep, why: "before the " + t.Kind}
	case t != nil && t.Data == DataBack:
		return decision{act: actBack, why: "before the " + t.Kind}
	case t != nil:
		return decision{act: actStart, why: t.Kind}
	case rec.Ends.InARow > 0 && rec.Ends.Last.At.Boot != w.boot && rec.Policy.Restart != RestartNever:
		return decision{act: actForget, why: "the host was started anew"}
	case !allows(rec.Policy, rec.Ends.InARow):
		return decision{} // given up
	case rec.Ends.InARow > 0:
		return startAfter(pauseAfter(rec.Ends.InARow), rec.Ends.Last.At, w, "after its end")
	}
	return decision{act: actStart, why: "it is wanted up"}
}

// startAfter starts the machine when the pause since a moment is over. A moment
// of another boot, or one that is still to come, is no reason to wait.
func startAfter(pause time.Duration, since Moment, w world, why string) decision {
	passed := w.awake - time.Duration(since.Awake)
	if since.Boot == w.boot && passed >= 0 && passed < pause {
		return decision{wait: pause - passed}
	}
	return decision{act: actStart, why: why}
}

// pauseAfter is the pause before the next start: none after the first end,
// then 1 s, doubled with each to a minute.
func pauseAfter(inARow int) time.Duration {
	if inARow <= 1 {
		return 0
	}
	return min(time.Second<<min(inARow-2, 16), maxPause)
}
