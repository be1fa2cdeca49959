package main

import (
	"testing"

	"example.com/{{name}}/stem"
)

var twenty = []byte(`{"numbers":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20],"delayMs":5}`)

func expect(t *testing.T, attempt stem.Attempt, result string) {
	t.Helper()
	if string(attempt.Result) != result {
		t.Errorf("got %s and %v, expected %s", attempt.Result, attempt.Failure, result)
	}
}

func TestItAddsUp(t *testing.T) {
	attempt := stem.Test(AddUp, twenty, stem.World{})
	expect(t, attempt, `{"sum":210,"count":20,"resumedAt":0}`)
	if last := attempt.Progress[len(attempt.Progress)-1]; last != (stem.Update{Fraction: 1, Message: "number 20 of 20"}) {
		t.Errorf("the last progress is %v", last)
	}
	if attempt.Slept.Milliseconds() != 100 {
		t.Errorf("it slept %v", attempt.Slept)
	}
}

func TestTheAttemptAfterAnEndByForceGoesOnAtTheCheckpoint(t *testing.T) {
	// Eleven beats for ten numbers.
	first := stem.Test(AddUp, twenty, stem.World{EndAt: 13})
	if !first.Forced {
		t.Fatalf("it was not ended by force: %+v", first)
	}
	second := stem.Test(AddUp, twenty, stem.World{Checkpoint: first.Checkpoint})
	expect(t, second, `{"sum":210,"count":20,"resumedAt":10}`)
}

func TestAStopNoticeSavesWhatIsDone(t *testing.T) {
	first := stem.Test(AddUp, twenty, stem.World{StopAt: 4})
	if first.Failure == nil || first.Failure.Kind != stem.KindRetryable || first.Failure.Code != "worker-drain" {
		t.Fatalf("it failed by %v", first.Failure)
	}
	second := stem.Test(AddUp, twenty, stem.World{Checkpoint: first.Checkpoint})
	expect(t, second, `{"sum":210,"count":20,"resumedAt":3}`)
}

func TestWhatIsNoNumberIsFatal(t *testing.T) {
	attempt := stem.Test(AddUp, []byte(`{"numbers":[1,"two"]}`), stem.World{})
	if failure := attempt.Failure; failure == nil || failure.Kind != stem.KindFatal || failure.Error() != `bad-number: numbers[1] is "two"` {
		t.Errorf("it failed by %v", failure)
	}
	for _, arguments := range []string{`{"numbers":1}`, `{"number":[1]}`, `[]`} {
		attempt := stem.Test(AddUp, []byte(arguments), stem.World{})
		if attempt.Failure == nil || attempt.Failure.Code != "invalid-arguments" {
			t.Errorf("%s failed by %v", arguments, attempt.Failure)
		}
	}
}
