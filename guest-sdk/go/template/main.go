// The task {{name}}: adds up numbers, slowly if asked to, and goes on where an earlier attempt ended.
package main

import (
	"encoding/json"
	"fmt"
	"time"

	"example.com/{{name}}/stem"
)

// After so many numbers come progress and a checkpoint.
const batch = 10

// Args are what the task is given.
type Args struct {
	Numbers []json.RawMessage `json:"numbers"`
	// DelayMs is the time spent on each number.
	DelayMs int64 `json:"delayMs"`
}

// Sum is what it returns.
type Sum struct {
	Sum   float64 `json:"sum"`
	Count int     `json:"count"`
	// ResumedAt counts the numbers that an earlier attempt had done.
	ResumedAt int `json:"resumedAt"`
}

// state is what the next attempt needs.
type state struct {
	Done int     `json:"done"`
	Sum  float64 `json:"sum"`
}

func main() { stem.Run(AddUp) }

// AddUp is the task.
func AddUp(ctx *stem.Context, args Args) (Sum, error) {
	var now state
	resumed, err := ctx.LoadCheckpoint(&now)
	if err != nil {
		return Sum{}, err
	}
	if resumed {
		ctx.Infof("going on after number %d", now.Done)
	}
	resumedAt := now.Done
	if err := addUp(ctx, args, &now); err != nil {
		// A stop notice leaves time for this, and the next attempt then repeats nothing.
		if saving := ctx.SaveCheckpoint(now); saving != nil {
			ctx.Warnf("the checkpoint was not saved: %v", saving)
		}
		return Sum{}, err
	}
	return Sum{Sum: now.Sum, Count: now.Done, ResumedAt: resumedAt}, nil
}

func addUp(ctx *stem.Context, args Args, now *state) error {
	if args.Numbers == nil {
		return stem.Fatal("invalid-arguments", `give an object with a list: {"numbers":[1,2,3]}`)
	}
	all := len(args.Numbers)
	for now.Done < all {
		// A pointer, since a null leaves what it is read into as it was.
		var number *float64
		if err := json.Unmarshal(args.Numbers[now.Done], &number); err != nil || number == nil {
			return stem.Fatal("bad-number", "numbers[%d] is %s", now.Done, args.Numbers[now.Done])
		}
		if args.DelayMs > 0 {
			if err := ctx.Sleep(time.Duration(args.DelayMs) * time.Millisecond); err != nil {
				return err
			}
		}
		if err := ctx.Heartbeat(); err != nil {
			return err
		}
		now.Sum += *number
		now.Done++
		if now.Done%batch == 0 || now.Done == all {
			if err := ctx.SaveCheckpoint(now); err != nil {
				return err
			}
			message := fmt.Sprintf("number %d of %d", now.Done, all)
			if err := ctx.Progress(float64(now.Done)/float64(all), message); err != nil {
				return err
			}
		}
	}
	return nil
}
