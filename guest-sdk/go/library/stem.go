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
// Built with GOOS=wasip1 GOARCH=wasm it is a WASI command, and what it prints is logged. On other systems [Test] runs the
// function without a worker.
//
// Arguments and results are any types that encoding/json reads and writes, or [Bytes]; at most 1 MiB each. Read JSON of others by
// [ReadJSON].
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
	"runtime/debug"
	"time"
	"unicode/utf8"
)

const (
	jsonType   = "application/json"
	binaryType = "application/octet-stream"

	progressBytes = 1024
	// More than most answers have, so that they come with the first call.
	usualBytes = 1024
	// The stack of WebAssembly holds some more, and not as many as encoding/json takes.
	levels = 200
)

// Bytes are arguments or a result that are not to be read or written as JSON. As a result they are recorded as
// application/json if they are one JSON document, as application/octet-stream otherwise.
type Bytes struct {
	Data []byte
	// MediaType is what whoever enqueued the task called them. It is not looked at in a result.
	MediaType string
}

// Run runs one attempt of the task, and ends the program. A panic of the task is a failure like any other error, with code "panic",
// and its stack is logged; one of another goroutine ends the program as it does elsewhere.
func Run[A, R any](task func(*Context, A) (R, error)) {
	worker := newHost()
	defer func() {
		if crash := recover(); crash != nil {
			fmt.Fprintf(os.Stderr, "panic: %v\n%s", crash, debug.Stack())
			Retryable("panic", "%v", crash).tell(worker)
			os.Exit(1)
		}
	}()
	result, failure := attempt(worker, task)
	if failure != nil {
		failure.tell(worker)
		os.Exit(1)
	}
	// A result that is refused is too large, as the worker says itself.
	if worker.output(result) < 0 {
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
	} else if err := ReadJSON(input, &args); err != nil {
		return nil, Fatal("invalid-arguments", "%v", err)
	}
	result, err := task(&Context{host: worker}, args)
	if failure := failureOf(err); failure != nil {
		return nil, failure
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

// ReadJSON is json.Unmarshal for text that others have written: more than 200 levels are an error, and not the end of the stack.
// Arguments that are no [Bytes], and checkpoints, are read by it.
func ReadJSON(text []byte, value any) error {
	depth, quoted := 0, false
	for at := 0; at < len(text); at++ {
		switch letter := text[at]; {
		case quoted && letter == '\\':
			at++
		case letter == '"':
			quoted = !quoted
		case quoted:
		case letter == '[', letter == '{':
			depth++
		case letter == ']', letter == '}':
			depth--
		}
		if depth > levels {
			return fmt.Errorf("it is nested deeper than %d levels", levels)
		}
	}
	return json.Unmarshal(text, value)
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
		text, err := fetch(c.host.info)
		if err == nil {
			err = json.Unmarshal(text, c.info)
		}
		if err != nil {
			panic(fmt.Sprintf("stem: the worker's answer to info: %v", err))
		}
	}
	return *c.info
}

// Heartbeat says that the attempt makes headway. It does no I/O; call it, or Progress, in every long loop. Once a stop notice
// is pending it returns an error to be passed up.
func (c *Context) Heartbeat() error {
	if c.host.heartbeat() == 1 {
		return c.stopped()
	}
	return nil
}

// StopNotice is why the attempt is asked to stop.
type StopNotice struct {
	// Code is revoked, soft-time-limit, worker-drain, worker-stop, or a word of a later version: then finish early.
	Code string `json:"code"`
	// Message is for people; it may be empty.
	Message string `json:"message"`
	// GraceMs is what is left until the end by force, in milliseconds; nil if nobody means to.
	GraceMs *int64 `json:"grace_ms,omitempty"`
}

// Failure is what giving up because of the notice means: retryable where the task is still wanted (worker-drain, worker-stop,
// soft-time-limit), cancelled otherwise, with the notice's code and message.
func (n StopNotice) Failure() *Failure {
	message := n.Message
	if message == "" {
		message = "asked to stop"
	}
	switch n.Code {
	case "worker-drain", "worker-stop", "soft-time-limit":
		return Retryable(n.Code, "%s", message)
	}
	return Cancelled(n.Code, "%s", message)
}

// StopRequested returns the pending stop notice, for those who want to tidy up first; nil if none is. Unlike Heartbeat it does not
// say that the attempt makes headway.
func (c *Context) StopRequested() *StopNotice {
	text, err := fetch(c.host.stopNotice)
	if err != nil {
		return nil
	}
	var notice StopNotice
	if err := json.Unmarshal(text, &notice); err != nil {
		panic(fmt.Sprintf("stem: the worker's answer to stop_notice: %v", err))
	}
	return &notice
}

// stopped is what the pending notice means.
func (c *Context) stopped() *Failure {
	if notice := c.StopRequested(); notice != nil {
		return notice.Failure()
	}
	return Cancelled("stop-requested", "asked to stop")
}

// Progress publishes how far the task is, and counts as a heartbeat. A fraction is brought between 0 and 1 and told in
// thousandths; math.NaN says that it cannot be told. The message is cut at 1,024 bytes. Once a stop notice is pending it returns an
// error to be passed up.
func (c *Context) Progress(fraction float64, message string) error {
	permille := int32(-1)
	if !math.IsNaN(fraction) {
		permille = int32(math.Round(min(max(fraction, 0), 1) * 1000))
	}
	switch answer := c.host.progress(permille, cut(valid(message), progressBytes)); {
	case answer == 1:
		return c.stopped()
	case answer < 0:
		return HostError(answer)
	}
	return nil
}

// Sleep waits without using CPU time. As soon as a stop notice is pending it returns an error to be passed up.
func (c *Context) Sleep(duration time.Duration) error {
	switch answer := c.host.sleep(millis(duration)); {
	case HostError(answer) == ErrStopping:
		return c.stopped()
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
// stays. A value that cannot be JSON is a fatal failure, code "invalid-checkpoint".
func (c *Context) SaveCheckpoint(value any) error {
	state, err := JSON(value)
	if err != nil {
		return Fatal("invalid-checkpoint", "%v", err)
	}
	return c.SaveCheckpointBytes(state)
}

// LoadCheckpoint reads what was saved last, in this attempt or an earlier one, into value; false if nothing was. One that does not
// fit the value is a fatal failure, code "invalid-checkpoint".
func (c *Context) LoadCheckpoint(value any) (bool, error) {
	state, err := c.LoadCheckpointBytes()
	if err != nil || state == nil {
		return false, err
	}
	if err := ReadJSON(state, value); err != nil {
		return false, Fatal("invalid-checkpoint", "%v", err)
	}
	return true, nil
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
	state, err := fetch(c.host.loadCheckpoint)
	if err == ErrNotFound {
		return nil, nil
	}
	return state, err
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
	whole := int64(max(duration, 0) / time.Millisecond)
	if duration > 0 && duration%time.Millisecond > 0 {
		whole++
	}
	return whole
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

// failureOf finds the failure that an error stands for; nil if there is none.
func failureOf(err error) *Failure {
	var failure *Failure
	var refusal HostError
	switch {
	case err == nil, err == error(failure):
		// A function that returns *Failure makes of its nil an error that is not nil.
		return nil
	case errors.As(err, &failure) && failure != nil:
		return failure
	case errors.As(err, &refusal):
		return refusal.failure(err)
	default:
		return Retryable("error", "%v", err)
	}
}
