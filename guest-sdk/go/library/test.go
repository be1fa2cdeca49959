//go:build !wasip1

package stem

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// World is what a tested attempt finds. The zero value is a first attempt that nobody stops.
type World struct {
	// StopAt is the number of the heartbeat or progress update that finds a stop notice pending; later ones find it too. 0 is
	// none.
	StopAt int
	// Stop is that notice; one without a code is worker-drain.
	Stop StopNotice
	// EndAt is the number of the one that does not return, since the attempt ends by force. 0 is none.
	EndAt int
	// Checkpoint is what an earlier attempt saved.
	Checkpoint []byte
	// Info is what Context.Info returns; an Attempt of 0 counts as 1.
	Info Info
	// MediaType is that of the arguments; empty counts as JSON.
	MediaType string
	// Grants are what it may reach beside itself.
	Grants Grants
}

// Update is one progress update; a fraction that cannot be told is -1.
type Update struct {
	Fraction float64
	Message  string
}

// Attempt is what a tested attempt did.
type Attempt struct {
	// Result is what the task returned, as a worker would record it; nil without one.
	Result []byte
	// Failure is how it failed; nil if it did not.
	Failure *Failure
	// Forced says that it was ended by force, and nothing came of it.
	Forced bool
	// Progress has every update, in order.
	Progress []Update
	// Log has every line, in order.
	Log []string
	// Checkpoint is the checkpoint as it stands at the end.
	Checkpoint []byte
	// Children has every task that it has enqueued, in order.
	Children []Enqueued
	// Buckets has the granted buckets as they stand at the end.
	Buckets map[string]map[string]Entry
	// Beats counts heartbeats and progress updates.
	Beats int
	// Slept is the sum of all waits, which take no time here.
	Slept time.Duration
}

// Test runs one attempt of a task, natively and without a worker. The arguments are written as JSON; []byte are taken as they are. A
// panic of the task goes on, so that the test shows where it was.
func Test[A, R any](task func(*Context, A) (R, error), args any, world World) (done Attempt) {
	payload, raw := args.([]byte)
	if !raw {
		payload = asJSON(args)
	}
	fake := &testHost{world: world, payload: payload}
	fake.done.Checkpoint = world.Checkpoint
	fake.begin()
	defer func() {
		switch ended := recover(); ended {
		case nil:
		case ends{}:
			done = fake.done
			done.Forced = true
		default:
			panic(ended)
		}
	}()
	result, failure := attempt(fake, task)
	fake.done.Result, fake.done.Failure = result, failure
	return fake.done
}

// newHost is for Run, which only a worker can serve.
func newHost() host {
	fmt.Fprintln(os.Stderr, "this is a task: build it by `stem task build` and run it by `stem task run`")
	os.Exit(2)
	return nil
}

// ends is what a call panics with when the attempt ends by force.
type ends struct{}

type testHost struct {
	world   World
	payload []byte
	done    Attempt
	// versions counts the changes of all values.
	versions int64
}

func (h *testHost) beat() int32 {
	h.done.Beats++
	if h.world.EndAt > 0 && h.done.Beats >= h.world.EndAt {
		panic(ends{})
	}
	if h.stopping() {
		return 1
	}
	return 0
}

func (h *testHost) stopping() bool { return h.world.StopAt > 0 && h.done.Beats >= h.world.StopAt }

func (h *testHost) input() []byte { return h.payload }

func (h *testHost) mediaType() string {
	if h.world.MediaType == "" {
		return jsonType
	}
	return h.world.MediaType
}

// These two are for Run.
func (h *testHost) output([]byte) int32             { return 0 }
func (h *testHost) fail(int32, int64, []byte) int32 { return 0 }

// answer fills `to` with as much as fits, and says how much there is.
func answer(to, with []byte) int32 {
	copy(to, with)
	return int32(len(with))
}

func asJSON(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return text
}

func (h *testHost) heartbeat() int32           { return h.beat() }
func (h *testHost) extendLease(ms int64) int64 { return ms }

func (h *testHost) stopNotice(to []byte) int32 {
	if !h.stopping() {
		return int32(ErrNotFound)
	}
	notice := h.world.Stop
	if notice.Code == "" {
		notice.Code = "worker-drain"
	}
	return answer(to, asJSON(notice))
}

func (h *testHost) progress(permille int32, message string) int32 {
	update := Update{Fraction: -1, Message: message}
	if permille >= 0 {
		update.Fraction = float64(permille) / 1000
	}
	h.done.Progress = append(h.done.Progress, update)
	return h.beat()
}

func (h *testHost) log(_ int32, line string) { h.done.Log = append(h.done.Log, line) }

func (h *testHost) sleep(ms int64) int32 {
	if h.stopping() {
		return int32(ErrStopping)
	}
	h.done.Slept += time.Duration(ms) * time.Millisecond
	return 0
}

func (h *testHost) timeLeft(which int32) int64 {
	if which == 0 {
		return -1
	}
	return time.Minute.Milliseconds()
}

func (h *testHost) info(to []byte) int32 {
	info := h.world.Info
	info.Attempt = max(info.Attempt, 1)
	return answer(to, asJSON(info))
}

func (h *testHost) loadCheckpoint(to []byte) int32 {
	if h.done.Checkpoint == nil {
		return int32(ErrNotFound)
	}
	return answer(to, h.done.Checkpoint)
}

func (h *testHost) saveCheckpoint(state []byte) int32 {
	if len(state) > 256<<10 {
		return int32(ErrTooLarge)
	}
	h.done.Checkpoint = append([]byte{}, state...)
	return 0
}
