// The package by itself, as a local test sees it.
package stem

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

func TestJSONLeavesEveryCharacterThatMayStandForItself(t *testing.T) {
	for text, expected := range map[string]string{
		"<a href='/'>&\u2028\u2029\u007f": "\"<a href='/'>&\u2028\u2029\u007f\"",
		`\u2028 is not one`:               `"\\u2028 is not one"`,
		"\\\u2028":                        "\"\\\\\u2028\"",
		"\x00\b\f\n\r\t\x1f":              `"\u0000\b\f\n\r\t\u001f"`,
	} {
		if found, err := JSON(text); err != nil || string(found) != expected {
			t.Errorf("%q became %s, %v", text, found, err)
		}
	}
}

func ended[R any](t *testing.T, result R, err error) Attempt {
	t.Helper()
	return Test(func(*Context, map[string]any) (R, error) { return result, err }, []byte("{}"), World{})
}

func TestWhatATaskReturnsIsWhatItMeans(t *testing.T) {
	if done := ended(t, Bytes{Data: []byte("raw")}, nil); string(done.Result) != "raw" {
		t.Errorf("%+v", done)
	}
	if done := ended(t, []int{1, 2}, nil); string(done.Result) != "[1,2]" {
		t.Errorf("%+v", done)
	}
	for _, wanted := range []struct {
		err  error
		kind Kind
		text string
	}{
		{Fatal("bad", "row %d", 3), KindFatal, "bad: row 3"},
		{fmt.Errorf("on the way: %w", Retryable("busy", "wait")), KindRetryable, "busy: wait"},
		{errors.New("plain"), KindRetryable, "error: plain"},
		{ErrUnavailable, KindRetryable, "unavailable: unavailable"},
		{fmt.Errorf("saving: %w", ErrTooLarge), KindFatal, "too-large: saving: too-large"},
	} {
		done := ended(t, 0, wanted.err)
		if done.Failure == nil || done.Failure.Kind != wanted.kind || done.Failure.Error() != wanted.text {
			t.Errorf("%v became %v", wanted.err, done.Failure)
		}
	}
	if done := ended(t, math.NaN(), nil); done.Failure == nil || done.Failure.Code != "invalid-result" {
		t.Errorf("%+v", done)
	}
	if after := Retryable("busy", "wait").After(time.Second).NotBefore; after != time.Second {
		t.Errorf("%v", after)
	}
}

func TestTheContextIsAsAWorkerWouldHaveIt(t *testing.T) {
	task := func(ctx *Context, _ map[string]any) (int, error) {
		if err := ctx.Progress(2, strings.Repeat("x", 1023)+"é"); err != nil {
			return 0, err
		}
		if found, err := ctx.LoadCheckpoint(new(int)); found || err != nil {
			t.Errorf("a checkpoint: %v, %v", found, err)
		}
		if err := ctx.SaveCheckpointBytes(make([]byte, 256<<10+1)); err != ErrTooLarge {
			t.Errorf("saving too much: %v", err)
		}
		if _, err := ctx.Config("SIZE"); err != ErrDenied {
			t.Errorf("a setting: %v", err)
		}
		if _, err := ctx.Bucket("b").PutIfAbsent("k", nil, 0); err != ErrDenied {
			t.Errorf("a bucket: %v", err)
		}
		if _, err := ctx.Enqueue(OnSuccess, Child{TaskName: "t"}); err != ErrDenied {
			t.Errorf("a child: %v", err)
		}
		if _, limited := ctx.SoftTimeLeft(); limited {
			t.Error("a soft limit")
		}
		return ctx.Info().Attempt, ctx.Sleep(1500 * time.Microsecond)
	}
	done := Test(task, []byte("{}"), World{Info: Info{Attempt: 2}})
	if string(done.Result) != "2" || done.Slept != 2*time.Millisecond || done.Beats != 1 {
		t.Errorf("%+v", done)
	}
	if update := done.Progress[0]; update.Fraction != 1 || len(update.Message) != 1023 {
		t.Errorf("%v, %d bytes", update.Fraction, len(update.Message))
	}
}
