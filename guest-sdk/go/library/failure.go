package stem

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Kind says what is to happen after a failure.
type Kind int32

// The kinds.
const (
	// KindRetryable asks for another attempt.
	KindRetryable Kind = 1
	// KindFatal says that no other attempt will help: the task becomes a dead letter.
	KindFatal Kind = 2
	// KindCancelled gives up because a stop notice is pending; without one it counts as fatal.
	KindCancelled Kind = 3
)

func (k Kind) String() string {
	switch k {
	case KindFatal:
		return "fatal"
	case KindCancelled:
		return "cancelled"
	default:
		return "retryable"
	}
}

// Failure is an error that says what is to happen next. An error of another type that a task returns counts as retryable, with
// code "error".
type Failure struct {
	// Kind is one of the three; any other number is as KindRetryable.
	Kind Kind
	// Code is one short word, for programs, cut at 64 bytes; the message is for people, cut at 4,096.
	Code    string
	Message string
	// Detail is kept with the task, as JSON; at most 16 KiB.
	Detail any
	// NotBefore lengthens the delay before the next attempt, for KindRetryable only.
	NotBefore time.Duration
}

// Retryable is a failure that another attempt may get over.
func Retryable(code, format string, values ...any) *Failure {
	return &Failure{Kind: KindRetryable, Code: code, Message: fmt.Sprintf(format, values...)}
}

// Fatal is a failure that no other attempt gets over.
func Fatal(code, format string, values ...any) *Failure {
	return &Failure{Kind: KindFatal, Code: code, Message: fmt.Sprintf(format, values...)}
}

// Cancelled answers a stop notice.
func Cancelled(code, format string, values ...any) *Failure {
	return &Failure{Kind: KindCancelled, Code: code, Message: fmt.Sprintf(format, values...)}
}

// After sets how long the next attempt is to wait at least.
func (f *Failure) After(delay time.Duration) *Failure {
	f.NotBefore = delay
	return f
}

// With adds a detail.
func (f *Failure) With(detail any) *Failure {
	f.Detail = detail
	return f
}

// Error is the code and the message.
func (f *Failure) Error() string { return f.Code + ": " + f.Message }

// tell hands the failure to the worker.
func (f *Failure) tell(worker host) {
	words := struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}{cut(valid(f.Code), 64), cut(valid(f.Message), 4096), f.Detail}
	kind := f.Kind
	if kind != KindFatal && kind != KindCancelled {
		kind = KindRetryable
	}
	text, err := json.Marshal(words)
	if err != nil {
		words.Detail = nil
		text, _ = json.Marshal(words) // Two texts can be written.
	}
	if worker.fail(int32(kind), millis(f.NotBefore), text) < 0 && words.Detail != nil {
		words.Detail = nil
		text, _ = json.Marshal(words)
		worker.fail(int32(kind), millis(f.NotBefore), text)
	}
}

// valid is the text with U+FFFD for what is not UTF-8.
func valid(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

// HostError is a refusal by the worker. Passed up it becomes a failure: retryable for ErrUnavailable, ErrQuota and
// ErrStopping, fatal for the others.
type HostError int32

// The refusals.
const (
	ErrDenied      HostError = -1
	ErrInvalid     HostError = -2
	ErrTooLarge    HostError = -3
	ErrNotFound    HostError = -4
	ErrConflict    HostError = -5
	ErrQuota       HostError = -6
	ErrUnavailable HostError = -7
	ErrStopping    HostError = -8
)

var refusals = map[HostError]string{
	ErrDenied:      "denied",
	ErrInvalid:     "invalid",
	ErrTooLarge:    "too-large",
	ErrNotFound:    "not-found",
	ErrConflict:    "conflict",
	ErrQuota:       "quota",
	ErrUnavailable: "unavailable",
	ErrStopping:    "stopping",
}

// Error is the refusal's word.
func (e HostError) Error() string {
	if word, ok := refusals[e]; ok {
		return word
	}
	return fmt.Sprintf("host-error %d", int32(e))
}

func (e HostError) failure(wrapped error) *Failure {
	switch e {
	case ErrUnavailable, ErrQuota, ErrStopping:
		return Retryable(e.Error(), "%v", wrapped)
	default:
		return Fatal(e.Error(), "%v", wrapped)
	}
}
