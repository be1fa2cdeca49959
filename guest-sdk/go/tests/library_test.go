// The package by itself, as a local test sees it.
package stem

import (
	"encoding/json"
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

func TestJSONThatIsTooDeepIsRefused(t *testing.T) {
	nested := func(levels int) []byte {
		return []byte(strings.Repeat(`[{"\"[":`, levels/2) + `"[[["` + strings.Repeat("}]", levels/2))
	}
	for levels, fits := range map[int]bool{2: true, 200: true, 202: false, 100_000: false} {
		var value any
		if err := ReadJSON(nested(levels), &value); (err == nil) != fits {
			t.Errorf("%d levels: %v", levels, err)
		}
	}
	task := func(*Context, any) (int, error) { return 0, nil }
	if done := Test(task, nested(1000), World{}); done.Failure == nil || done.Failure.Code != "invalid-arguments" {
		t.Errorf("%v", done.Failure)
	}
	if ReadJSON([]byte(`{"a":`), new(any)) == nil {
		t.Error("half a value")
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
	// What a function that returns *Failure makes of its success.
	if done := ended(t, "kept", (*Failure)(nil)); string(done.Result) != `"kept"` || done.Failure != nil {
		t.Errorf("%+v", done)
	}
	if done := ended(t, 0, fmt.Errorf("lost: %w", (*Failure)(nil))); done.Failure == nil {
		t.Errorf("%+v", done)
	}
	if done := ended(t, math.NaN(), nil); done.Failure == nil || done.Failure.Code != "invalid-result" {
		t.Errorf("%+v", done)
	}
	if after := Retryable("busy", "wait").After(time.Second).NotBefore; after != time.Second {
		t.Errorf("%v", after)
	}
}

func TestTimesAreRoundedUpAndNeverOverflow(t *testing.T) {
	for duration, expected := range map[time.Duration]int64{
		-time.Second: 0, 0: 0, 1: 1, time.Millisecond: 1, time.Millisecond + 1: 2,
		math.MaxInt64: math.MaxInt64/1_000_000 + 1, math.MinInt64: 0,
	} {
		if found := millis(duration); found != expected {
			t.Errorf("%v is %d ms, expected %d", duration, found, expected)
		}
	}
}

// telling keeps what it is told, and refuses what a worker would.
type telling struct {
	testHost
	kind  int32
	after int64
	words map[string]any
}

func (h *telling) fail(kind int32, after int64, words []byte) int32 {
	if kind < 1 || kind > 3 || after < 0 || json.Unmarshal(words, &h.words) != nil {
		return int32(ErrInvalid)
	}
	if len(words) > 32<<10 {
		return int32(ErrTooLarge)
	}
	h.kind, h.after = kind, after
	return 0
}

func TestAFailureIsToldWhateverItsWordsAre(t *testing.T) {
	worker := new(telling)
	(&Failure{Code: strings.Repeat("\xff", 100), Message: "caf\xe9", NotBefore: math.MaxInt64}).tell(worker)
	if worker.kind != 1 || worker.after <= 0 || worker.words["message"] != "caf\uFFFD" {
		t.Errorf("%+v", worker)
	}
	Fatal("big", "%s", strings.Repeat("\x01", 5000)).With(strings.Repeat("x", 32<<10)).tell(worker)
	if worker.kind != 2 || worker.words["code"] != "big" {
		t.Errorf("%d %v", worker.kind, worker.words["code"])
	}
}

func TestAStopNoticeSaysWhichItIs(t *testing.T) {
	task := func(ctx *Context, _ map[string]any) (int, error) {
		if notice := ctx.StopRequested(); notice != nil {
			t.Errorf("too early: %v", notice)
		}
		for {
			if err := ctx.Heartbeat(); err != nil {
				if sleeping := ctx.Sleep(time.Second); sleeping == nil || sleeping.Error() != err.Error() {
					t.Errorf("%v while asleep, %v awake", sleeping, err)
				}
				return 0, err
			}
		}
	}
	grace := int64(1500)
	for _, wanted := range []struct {
		notice StopNotice
		kind   Kind
		text   string
	}{
		{StopNotice{}, KindRetryable, "worker-drain: asked to stop"},
		{StopNotice{Code: "worker-stop", Message: "because", GraceMs: &grace}, KindRetryable, "worker-stop: because"},
		{StopNotice{Code: "soft-time-limit", Message: strings.Repeat("x", 3000)}, KindRetryable, "soft-time-limit: " + strings.Repeat("x", 3000)},
		{StopNotice{Code: "revoked"}, KindCancelled, "revoked: asked to stop"},
		{StopNotice{Code: "tea-time"}, KindCancelled, "tea-time: asked to stop"},
	} {
		done := Test(task, []byte("{}"), World{StopAt: 2, Stop: wanted.notice})
		if done.Failure == nil || done.Failure.Kind != wanted.kind || done.Failure.Error() != wanted.text {
			t.Errorf("%v became %v", wanted.notice, done.Failure)
		}
	}
}

func TestWhatIsGrantedIsThere(t *testing.T) {
	task := func(ctx *Context, _ map[string]any) (string, error) {
		seen := ctx.Bucket("seen")
		first, err := seen.Get("k")
		if err != nil || string(first.Value) != "one" {
			return "", fmt.Errorf("get: %v, %w", first, err)
		}
		if _, err := seen.PutIfAbsent("k", nil, 0); err != ErrConflict {
			return "", fmt.Errorf("put if absent: %w", err)
		}
		second, err := seen.PutIfVersion("k", []byte("two"), first.Version, time.Minute)
		if err != nil || second <= first.Version {
			return "", fmt.Errorf("put: %d, %w", second, err)
		}
		if err := seen.RemoveIfVersion("k", first.Version); err != ErrConflict {
			return "", fmt.Errorf("remove: %w", err)
		}
		if err := seen.Remove("none"); err != ErrNotFound {
			return "", fmt.Errorf("remove: %w", err)
		}
		if _, err := ctx.Enqueue(Now, Child{TaskName: "thumb.small"}, Child{TaskName: "other"}); err != ErrDenied {
			return "", fmt.Errorf("another child: %w", err)
		}
		ids, err := ctx.Enqueue(OnSuccess, Child{TaskName: "thumb.small", Input: 7, DedupKey: "k"},
			Child{TaskName: "thumb.large", Input: Bytes{Data: []byte("PNG"), MediaType: "image/png"}})
		if err != nil || len(ids) != 2 {
			return "", fmt.Errorf("children: %v, %w", ids, err)
		}
		secret, err := ctx.SecretReveal("KEY")
		if err != nil || string(secret) != "hush" {
			return "", fmt.Errorf("secret: %w", err)
		}
		if standIn, err := ctx.SecretPlaceholder("KEY"); err != nil || strings.Contains(standIn, "hush") {
			return "", fmt.Errorf("placeholder: %q, %w", standIn, err)
		}
		if _, err := ctx.SecretPlaceholder("OTHER"); err != ErrDenied {
			return "", fmt.Errorf("another placeholder: %w", err)
		}
		return ctx.Config("SIZE")
	}
	world := World{Grants: Grants{
		Children: []string{"thumb.*"},
		Buckets:  map[string]map[string][]byte{"seen": {"k": []byte("one")}},
		Config:   map[string]string{"SIZE": "800"},
		Secrets:  map[string]string{"KEY": "hush"},
	}}
	done := Test(task, []byte("{}"), world)
	if string(done.Result) != `"800"` {
		t.Fatalf("%s, %v", done.Result, done.Failure)
	}
	if left := done.Buckets["seen"]["k"].Value; string(left) != "two" || string(world.Grants.Buckets["seen"]["k"]) != "one" {
		t.Errorf("%s is left", left)
	}
	if len(done.Children) != 2 || done.Children[0].Release != OnSuccess || done.Children[0].DedupKey != "k" {
		t.Fatalf("%+v", done.Children)
	}
	small, large := done.Children[0].Input, done.Children[1].Input
	if string(small.Data) != "7" || small.MediaType != jsonType || string(large.Data) != "PNG" || large.MediaType != "image/png" {
		t.Errorf("%v, %v", small, large)
	}
}

func TestAChildIsWrittenAsTheWorkerReadsIt(t *testing.T) {
	for expected, child := range map[string]Child{
		`{"task_name":"a"}`:           {TaskName: "a"},
		`{"task_name":"a","input":0}`: {TaskName: "a", Input: 0},
		`{"task_name":"a","input_base64":"iVBORw==","media_type":"image/png"}`: {
			TaskName: "a", Input: Bytes{Data: []byte("\x89PNG"), MediaType: "image/png"}},
		`{"task_name":"a","input_base64":"","media_type":"application/octet-stream"}`: {TaskName: "a", Input: Bytes{}},
	} {
		if found, err := JSON(child.wire()); err != nil || string(found) != expected {
			t.Errorf("%s, %v, expected %s", found, err, expected)
		}
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
		var failure *Failure
		if err := ctx.SaveCheckpoint(math.NaN()); !errors.As(err, &failure) || failure.Code != "invalid-checkpoint" {
			t.Errorf("saving what is no JSON: %v", err)
		}
		long := strings.Repeat("x", 5000)
		if err := ctx.SaveCheckpoint(long); err != nil {
			t.Errorf("saving: %v", err)
		}
		var loaded string
		if found, err := ctx.LoadCheckpoint(&loaded); !found || err != nil || loaded != long {
			t.Errorf("loading: %v, %v", found, err)
		}
		if _, err := ctx.LoadCheckpoint(new(int)); !errors.As(err, &failure) || failure.Kind != KindFatal {
			t.Errorf("loading something else: %v", err)
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
