// Package stem is for tasks of Stem in Go. A task is a function of a [Context] and its arguments, and main hands it to [Run]:
//
//	type Args struct {
//		Steps int `json:"steps"`
//	}
//
//	func main() { stem.Run(Walk) }
//
//	func Walk(ctx *stem.Context, args Args) (map[string]int, error) {
//		for step := 1; step <= args.Steps; step++ {
//			if err := ctx.Progress(float64(step)/float64(args.Steps), fmt.Sprintf("step %d", step)); err != nil {
//				return nil, err // A stop notice is pending.
//			}
//		}
//		return map[string]int{"steps": args.Steps}, nil
//	}
//
// Built with GOOS=wasip1 GOARCH=wasm it is a WASI command: standard output carries the result, so write nothing to it; what
// goes to standard error is logged. On other systems [Test] runs the function without a worker.
//
// Arguments and results are any types that encoding/json reads and writes, or [Bytes]; at most 1 MiB each.
//
// Each attempt begins in fresh memory. A call that finds the attempt at its end by force does not return, and nothing after it
// runs, no deferred function either.
package stem

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	jsonType   = "application/json"
	binaryType = "application/octet-stream"

	progressBytes = 1024
)

// Bytes are arguments or a result that are not to be read or written as JSON. As a result they are recorded as
// application/json if they are one JSON document, as application/octet-stream otherwise.
type Bytes struct {
	Data []byte
	// MediaType is what whoever enqueued the task called them. It is not looked at in a result.
	MediaType string
}

// Run runs one attempt of the task, and ends the program.
func Run[A, R any](task func(*Context, A) (R, error)) {
	worker := newHost()
	result, failure := attempt(worker, task)
	if failure != nil {
		failure.tell(worker)
		os.Exit(1)
	}
	if _, err := os.Stdout.Write(result); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// attempt reads the arguments, calls the task and writes its result.
func attempt[A, R any](worker host, task func(*Context, A) (R, error)) ([]byte, *Failure) {
	var args A
	input := worker.input()
	if raw, ok := any(&args).(*Bytes); ok {
		*raw = Bytes{Data: input, MediaType: worker.mediaType()}
	} else if err := json.Unmarshal(input, &args); err != nil {
		return nil, Fatal("invalid-arguments", "%v", err)
	}
	result, err := task(&Context{host: worker}, args)
	if err != nil {
		return nil, failureOf(err)
	}
	if raw, ok := any(result).(Bytes); ok {
		return raw.Data, nil
	}
	encoded, err := JSON(result)
	if err != nil {
		return nil, Fatal("invalid-result", "%v", err)
	}
	return encoded, nil
}

// JSON writes a value as Run writes results: without white space, and every character that may stands for itself.
func JSON(value any) ([]byte, error) {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	text := bytes.TrimSuffix(buffer.Bytes(), []byte("\n"))
	if !bytes.Contains(text, []byte(`\u202`)) {
		return text, nil
	}
	// The encoder escapes these two for JavaScript's sake. A backslash takes the byte after it along.
	plain := make([]byte, 0, len(text))
	for at := 0; at < len(text); at++ {
		switch {
		case bytes.HasPrefix(text[at:], []byte(`\u2028`)):
			plain = append(plain, "\u2028"...)
			at += 5
		case bytes.HasPrefix(text[at:], []byte(`\u2029`)):
			plain = append(plain, "\u2029"...)
			at += 5
		case text[at] == '\\':
			plain = append(plain, text[at], text[at+1])
			at++
		default:
			plain = append(plain, text[at])
		}
	}
	return plain, nil
}

// Context is a task's view of its own attempt.
type Context struct {
	host host
	info *Info
}

// Info are facts about the attempt, the same throughout it.
type Info struct {
	TaskID   string `json:"task_id"`
	TaskName string `json:"task_name"`
	Queue    string `json:"queue"`
	// Attempt is 1 for the first.
	Attempt int `json:"attempt"`
	// MaxAttempts is 0 when unbounded.
	MaxAttempts  int   `json:"max_attempts"`
	EnqueuedAtMs int64 `json:"enqueued_at_ms"`
	// ParentID is the task that enqueued this one; empty if none did.
	ParentID string `json:"parent_id"`
	RootID   string `json:"root_id"`
	// IdempotencyKey is the same in every attempt of this task and in no other task. Give it to outside services, so that an
	// effect repeated by a later attempt takes place once.
	IdempotencyKey string `json:"idempotency_key"`
	// TraceParent is the W3C traceparent; empty if none came with the task.
	TraceParent string `json:"trace_parent"`
	// Headers are name and value pairs from whoever enqueued the task; a name may occur twice.
	Headers [][2]string `json:"headers"`
}

// Info returns the facts about the attempt.
func (c *Context) Info() Info {
	if c.info == nil {
		c.info = new(Info)
		if err := json.Unmarshal(c.host.info(), c.info); err != nil {
			panic(fmt.Sprintf("stem: the worker's answer to info: %v", err))
		}
	}
	return *c.info
}

// Heartbeat says that the attempt makes headway. It does no I/O; call it, or Progress, in every long loop. Once a stop notice
// is pending it returns an error to be passed up.
func (c *Context) Heartbeat() error {
	if c.StopRequested() {
		return stopped()
	}
	return nil
}

// StopRequested says whether a stop notice is pending, for those who want to tidy up first. It counts as a heartbeat.
func (c *Context) StopRequested() bool { return c.host.heartbeat() == 1 }

// Progress publishes how far the task is, and counts as a heartbeat. A fraction is brought between 0 and 1; math.NaN says
// that it cannot be told. The message is cut at 1,024 bytes. Once a stop notice is pending it returns an error to be passed up.
func (c *Context) Progress(fraction float64, message string) error {
	permille := int32(-1)
	if !math.IsNaN(fraction) {
		permille = int32(math.Round(min(max(fraction, 0), 1) * 1000))
	}
	switch answer := c.host.progress(permille, cut(strings.ToValidUTF8(message, "\uFFFD"), progressBytes)); {
	case answer == 1:
		return stopped()
	case answer < 0:
		return HostError(answer)
	}
	return nil
}

// Sleep waits without using CPU time. As soon as a stop notice is pending it returns an error to be passed up.
func (c *Context) Sleep(duration time.Duration) error {
	switch answer := c.host.sleep(millis(duration)); {
	case HostError(answer) == ErrStopping:
		return stopped()
	case answer < 0:
		return HostError(answer)
	}
	return nil
}

// ExtendLease asks for the lease to last at least so long from now, and returns how long it now lasts. Needed only before a
// long stretch without any call here.
func (c *Context) ExtendLease(by time.Duration) (time.Duration, error) {
	left := c.host.extendLease(millis(by))
	if left < 0 {
		return 0, HostError(left)
	}
	return time.Duration(left) * time.Millisecond, nil
}

// SoftTimeLeft is the time until a stop notice comes; false without a soft limit.
func (c *Context) SoftTimeLeft() (time.Duration, bool) { return timeLeft(c.host.timeLeft(0)) }

// HardTimeLeft is the time until the attempt ends by force; false without a hard limit.
func (c *Context) HardTimeLeft() (time.Duration, bool) { return timeLeft(c.host.timeLeft(1)) }

func timeLeft(ms int64) (time.Duration, bool) {
	return time.Duration(max(ms, 0)) * time.Millisecond, ms >= 0
}

// SaveCheckpoint keeps a value, as JSON, for the next attempt of this task; at most 256 KiB. After an error the former value
// stays.
func (c *Context) SaveCheckpoint(value any) error {
	state, err := JSON(value)
	if err != nil {
		return err
	}
	return c.SaveCheckpointBytes(state)
}

// LoadCheckpoint reads what was saved last, in this attempt or an earlier one, into value; false if nothing was.
func (c *Context) LoadCheckpoint(value any) (bool, error) {
	state, err := c.LoadCheckpointBytes()
	if err != nil || state == nil {
		return false, err
	}
	return true, json.Unmarshal(state, value)
}

// SaveCheckpointBytes is SaveCheckpoint for bytes as they are.
func (c *Context) SaveCheckpointBytes(state []byte) error {
	if answer := c.host.saveCheckpoint(state); answer < 0 {
		return HostError(answer)
	}
	return nil
}

// LoadCheckpointBytes is LoadCheckpoint for bytes as they are; nil if nothing was saved.
func (c *Context) LoadCheckpointBytes() ([]byte, error) {
	state, answer := c.host.loadCheckpoint()
	switch {
	case HostError(answer) == ErrNotFound:
		return nil, nil
	case answer < 0:
		return nil, HostError(answer)
	}
	return state, nil
}

// Level says how much a log line matters.
type Level int32

// The levels.
const (
	LevelTrace Level = iota
	LevelDebug
	LevelInfo
	LevelWarn
	LevelError
)

// Logf writes one line to the task's log, cut at 4,096 bytes.
func (c *Context) Logf(level Level, format string, values ...any) {
	c.host.log(int32(level), fmt.Sprintf(format, values...))
}

// Infof is Logf at level info.
func (c *Context) Infof(format string, values ...any) { c.Logf(LevelInfo, format, values...) }

// Warnf is Logf at level warn.
func (c *Context) Warnf(format string, values ...any) { c.Logf(LevelWarn, format, values...) }

// Errorf is Logf at level error.
func (c *Context) Errorf(format string, values ...any) { c.Logf(LevelError, format, values...) }

// millis rounds up, so that a wait of half a millisecond is a wait.
func millis(duration time.Duration) int64 {
	return int64((max(duration, 0) + time.Millisecond - 1) / time.Millisecond)
}

// cut ends a text between two characters.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}

// failureOf finds the failure that an error stands for.
func failureOf(err error) *Failure {
	var failure *Failure
	var refusal HostError
	switch {
	case errors.As(err, &failure):
		return failure
	case errors.As(err, &refusal):
		return refusal.failure(err)
	default:
		return Retryable("error", "%v", err)
	}
}
