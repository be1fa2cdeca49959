/* Tests of the task, without WebAssembly and without a worker: stem task test. */
#include "stem/stem_test.h"

static const char twenty[] = "{\"numbers\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20],\"delayMs\":5}";

static void it_adds_up(void) {
    stem_attempt attempt = stem_test_run((stem_world){0}, twenty);
    STEM_CHECK_TEXT(attempt.result.at, "{\"sum\":210,\"count\":20,\"resumedAt\":0}");
    STEM_CHECK(attempt.fraction == 1.0);
    STEM_CHECK_TEXT(attempt.progress, "number 20 of 20");
    STEM_CHECK(attempt.slept_ms == 100);
}

static void the_attempt_after_an_end_by_force_goes_on_at_the_checkpoint(void) {
    /* Eleven beats for ten numbers; the next does not return. */
    stem_attempt first = stem_test_run((stem_world){.end_at = 13}, twenty);
    STEM_CHECK(first.forced);
    stem_attempt second = stem_test_run((stem_world){.checkpoint = first.checkpoint, .attempt = 2}, twenty);
    STEM_CHECK_TEXT(second.result.at, "{\"sum\":210,\"count\":20,\"resumedAt\":10}");
    STEM_CHECK_TEXT(second.log, "going on after number 10\n");
}

static void a_stop_notice_saves_what_is_done(void) {
    stem_attempt first = stem_test_run((stem_world){.stop_at = 4}, twenty);
    STEM_CHECK_TEXT(first.kind, "retryable");
    STEM_CHECK_TEXT(first.code, "worker-drain");
    STEM_CHECK_TEXT(first.checkpoint.at, "{\"done\":3,\"sum\":6}");
    stem_attempt second = stem_test_run((stem_world){.checkpoint = first.checkpoint}, twenty);
    STEM_CHECK_TEXT(second.result.at, "{\"sum\":210,\"count\":20,\"resumedAt\":3}");
}

static void a_checkpoint_that_cannot_be_read_is_not_none(void) {
    stem_attempt attempt = stem_test_run((stem_world){.unavailable = true}, twenty);
    STEM_CHECK_TEXT(attempt.kind, "retryable");
    STEM_CHECK_TEXT(attempt.code, "checkpoint");
}

static void what_is_no_number_is_fatal(void) {
    stem_attempt attempt = stem_test_run((stem_world){0}, "{\"numbers\":[1,\"two\"]}");
    STEM_CHECK_TEXT(attempt.kind, "fatal");
    STEM_CHECK_TEXT(attempt.code, "bad-number");
    STEM_CHECK_TEXT(attempt.message, "numbers[1] is \"two\"");
    STEM_CHECK_TEXT(stem_test_run((stem_world){0}, "[]").code, "invalid-arguments");
    STEM_CHECK_TEXT(stem_test_run((stem_world){0}, "{\"numbers\":1}").code, "invalid-arguments");
}

int main(void) {
    it_adds_up();
    the_attempt_after_an_end_by_force_goes_on_at_the_checkpoint();
    a_stop_notice_saves_what_is_done();
    a_checkpoint_that_cannot_be_read_is_not_none();
    what_is_no_number_is_fatal();
    return stem_test_report();
}
