// The conformance task, as guest-sdk/CONFORMANCE.md describes it.
package main

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

	"example.com/conformance/stem"
)

func main() { stem.Run(Conformance) }

// arguments are an object's values by their exact keys: encoding/json would match those of a struct in any case.
type arguments map[string]json.RawMessage

// read reads a value that must be there.
func read[T any](args arguments, key string) (T, error) {
	var value *T
	if err := json.Unmarshal(args[key], &value); err != nil || value == nil {
		var wanted T
		return wanted, stem.Fatal("invalid-arguments", "%s is not a %T", key, wanted)
	}
	return *value, nil
}

func whole(args arguments, key string) (uint64, error) { return read[uint64](args, key) }

// Conformance is the task.
func Conformance(ctx *stem.Context, payload stem.Bytes) (stem.Bytes, error) {
	if payload.MediaType == "application/octet-stream" {
		return payload, nil
	}
	var args arguments
	if err := stem.ReadJSON(payload.Data, &args); err != nil || args == nil {
		return stem.Bytes{}, stem.Fatal("invalid-arguments", "give a JSON object")
	}
	op, err := read[string](args, "op")
	if err != nil {
		return stem.Bytes{}, err
	}
	result, err := do(ctx, op, args)
	if err != nil {
		return stem.Bytes{}, err
	}
	text, err := stem.JSON(result)
	return stem.Bytes{Data: text}, err
}

func do(ctx *stem.Context, op string, args arguments) (any, error) {
	switch op {
	case "echo":
		return echo(args)
	case "info":
		info := ctx.Info()
		return struct {
			TaskName       string `json:"taskName"`
			Queue          string `json:"queue"`
			Attempt        int    `json:"attempt"`
			IdempotencyKey string `json:"idempotencyKey"`
		}{info.TaskName, info.Queue, info.Attempt, info.IdempotencyKey}, nil
	case "fail":
		return nil, fail(args)
	case "sleep":
		ms, err := whole(args, "ms")
		if err != nil {
			return nil, err
		}
		return map[string]uint64{"ms": ms}, ctx.Sleep(duration(ms))
	case "progress":
		return progress(ctx, args)
	case "beat":
		return nil, beat(ctx)
	case "allocate":
		return allocate(args)
	case "spin":
		return spin(ctx, args)
	case "checkpoint":
		return checkpoint(ctx, args)
	default:
		return nil, stem.Fatal("unknown-op", "unknown op %s", op)
	}
}

// duration is so many milliseconds, or the longest one.
func duration(ms uint64) time.Duration {
	if ms > uint64(math.MaxInt64/time.Millisecond) {
		return math.MaxInt64
	}
	return time.Duration(ms) * time.Millisecond
}

func echo(args arguments) (any, error) {
	text, err := read[string](args, "text")
	return struct {
		Text  string `json:"text"`
		Bytes int    `json:"bytes"`
	}{text, len(text)}, err
}

func fail(args arguments) error {
	words := map[string]string{}
	for _, key := range []string{"kind", "code", "message"} {
		word, err := read[string](args, key)
		if err != nil {
			return err
		}
		words[key] = word
	}
	var after uint64
	if args["afterMs"] != nil {
		var err error
		if after, err = whole(args, "afterMs"); err != nil {
			return err
		}
	}
	switch words["kind"] {
	case "retryable":
		return stem.Retryable(words["code"], "%s", words["message"]).After(duration(after))
	case "fatal":
		return stem.Fatal(words["code"], "%s", words["message"])
	case "cancelled":
		return stem.Cancelled(words["code"], "%s", words["message"])
	default:
		return stem.Fatal("invalid-arguments", "kind is not retryable, fatal or cancelled")
	}
}

func progress(ctx *stem.Context, args arguments) (any, error) {
	steps, err := whole(args, "steps")
	if err != nil {
		return nil, err
	}
	if err := ctx.Heartbeat(); err != nil {
		return nil, err
	}
	for step := uint64(1); step <= steps; step++ {
		message := fmt.Sprintf("step %d of %d", step, steps)
		if err := ctx.Progress(float64(step)/float64(steps), message); err != nil {
			return nil, err
		}
	}
	return map[string]uint64{"steps": steps}, nil
}

func beat(ctx *stem.Context) error {
	if err := ctx.Progress(math.NaN(), "beating"); err != nil {
		return err
	}
	for {
		if err := ctx.Heartbeat(); err != nil {
			return err
		}
	}
}

// Held here, the blocks stay to the end.
var blocks [][]byte

func allocate(args arguments) (any, error) {
	mib, err := whole(args, "mib")
	if err != nil {
		return nil, err
	}
	for range mib {
		block := make([]byte, 1<<20)
		for at := 0; at < len(block); at += 4096 {
			block[at] = 1
		}
		blocks = append(blocks, block)
	}
	return map[string]uint64{"mib": mib}, nil
}

func spin(ctx *stem.Context, args arguments) (any, error) {
	x := uint32(1)
	if args["rounds"] == nil {
		if err := ctx.Progress(math.NaN(), "spinning"); err != nil {
			return nil, err
		}
		for {
			x = x*1664525 + 1013904223
		}
	}
	rounds, err := whole(args, "rounds")
	for range rounds {
		x = x*1664525 + 1013904223
	}
	return struct {
		Rounds uint64 `json:"rounds"`
		X      uint32 `json:"x"`
	}{rounds, x}, err
}

func checkpoint(ctx *stem.Context, args arguments) (any, error) {
	type state struct {
		Step uint64 `json:"step"`
	}
	steps, err := whole(args, "steps")
	if err != nil {
		return nil, err
	}
	stopAt, err := whole(args, "stopAt")
	if err != nil {
		return nil, err
	}
	var from state
	if _, err := ctx.LoadCheckpoint(&from); err != nil {
		return nil, err
	}
	for step := from.Step + 1; step <= steps; step++ {
		if err := ctx.SaveCheckpoint(state{step}); err != nil {
			return nil, err
		}
		if from.Step == 0 && step == stopAt {
			return nil, stem.Retryable("interrupted", "stopped at step %d", step)
		}
	}
	return struct {
		From  uint64 `json:"from"`
		Steps uint64 `json:"steps"`
	}{from.Step, steps}, nil
}
