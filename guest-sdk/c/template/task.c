/* The task {{name}}: adds up numbers, slowly if asked to, and goes on where an earlier attempt ended. */
#include "stem/stem.h"

/* After so many numbers come progress and a checkpoint. */
enum { BATCH = 10 };

/* What the next attempt needs. It is read by this same program, so the bytes may be those in memory. */
typedef struct {
    int64_t done;
    double sum;
} state;

/* Saves what is done, and ends because a stop notice is pending. */
static stem_end stopped(const state *now) {
    stem_checkpoint_save(now, sizeof *now);
    return stem_stopped();
}

stem_end stem_task(stem_text arguments) {
    stem_text numbers = stem_json_get(arguments, "numbers");
    if (!stem_json_is_valid(arguments) || numbers.size == 0)
        return stem_fatal("invalid-arguments", "give an object with a list: {\"numbers\":[1,2,3]}");
    int64_t delay_ms = 0, all = 0;
    stem_json_integer(stem_json_get(arguments, "delayMs"), &delay_ms);
    stem_text value;
    for (stem_text rest = numbers; stem_json_next(&rest, &value);) all++;

    state now = {0, 0.0};
    if (stem_checkpoint_load(&now, sizeof now) == sizeof now) {
        stem_log(STEM_INFO, "going on after number %lld", (long long)now.done);
    } else {
        now = (state){0, 0.0};
    }
    int64_t resumed_at = now.done, index = 0;
    for (stem_text rest = numbers; stem_json_next(&rest, &value); index++) {
        if (index < now.done) continue;
        double number;
        if (!stem_json_number(value, &number))
            return stem_fatal("bad-number", "numbers[%lld] is %.*s", (long long)index, (int)value.size, value.at);
        if (delay_ms > 0 && !stem_sleep(delay_ms)) return stopped(&now);
        if (!stem_heartbeat()) return stopped(&now);
        now.sum += number;
        now.done++;
        if (now.done % BATCH == 0 || now.done == all) {
            int32_t saved = stem_checkpoint_save(&now, sizeof now);
            if (saved < 0) return stem_retryable(0, "checkpoint", "the checkpoint was not saved: %d", (int)saved);
            if (!stem_progress((double)now.done / (double)all, "number %lld of %lld", (long long)now.done, (long long)all))
                return stem_stopped();
        }
    }
    return stem_returnf("{\"sum\":%.15g,\"count\":%lld,\"resumedAt\":%lld}", now.sum, (long long)now.done,
                        (long long)resumed_at);
}
