/* The task {{name}}: adds up numbers, slowly if asked to, and goes on where an earlier attempt ended. */
#include <stdio.h>

#include "stem/stem.h"

/* After so many numbers come progress and a checkpoint. */
enum { BATCH = 10 };

/* What the next attempt needs. */
typedef struct {
    int64_t done;
    double sum;
} state;

enum { STATE_BYTES = 96 };

/* As JSON: another version of this task may be the one that reads it. */
static int32_t save(const state *now) {
    char json[STATE_BYTES];
    int size = snprintf(json, sizeof json, "{\"done\":%lld,\"sum\":%.17g}", (long long)now->done, now->sum);
    return stem_checkpoint_save(json, (size_t)size);
}

/* What an earlier attempt has saved. Returns 0, also where none has, or an error. */
static int32_t load(state *now) {
    char json[STATE_BYTES];
    int32_t size = stem_checkpoint_load(json, sizeof json);
    if (size < 0) return size == STEM_NOT_FOUND ? 0 : size;
    if (size > STATE_BYTES) return STEM_INVALID;
    stem_text saved = {json, (size_t)size};
    bool good = stem_json_is_valid(saved) && stem_json_integer(stem_json_get(saved, "done"), &now->done) &&
                stem_json_number(stem_json_get(saved, "sum"), &now->sum);
    return good ? 0 : STEM_INVALID;
}

/* Saves what is done, and ends because a stop notice is pending. */
static stem_end stopped(const state *now) {
    int32_t saved = save(now);
    if (saved < 0) stem_log(STEM_WARN, "the checkpoint was not saved: %d", (int)saved);
    return stem_stopped();
}

stem_end stem_task(stem_text arguments) {
    stem_text numbers = stem_json_get(arguments, "numbers");
    if (!stem_json_is_valid(arguments) || !stem_json_is_array(numbers))
        return stem_fatal("invalid-arguments", "give an object with a list: {\"numbers\":[1,2,3]}");
    int64_t delay_ms = 0, all = 0;
    stem_json_integer(stem_json_get(arguments, "delayMs"), &delay_ms);
    stem_text value;
    for (stem_text rest = numbers; stem_json_next(&rest, &value);) all++;

    state now = {0, 0.0};
    int32_t loaded = load(&now);
    if (loaded == STEM_INVALID) return stem_fatal("invalid-checkpoint", "it is not one of this task");
    /* Beginning anew would write over what there may be. */
    if (loaded < 0) return stem_retryable(0, "checkpoint", "the checkpoint was not read: %d", (int)loaded);
    if (now.done > 0) stem_log(STEM_INFO, "going on after number %lld", (long long)now.done);
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
            int32_t saved = save(&now);
            if (saved < 0) return stem_retryable(0, "checkpoint", "the checkpoint was not saved: %d", (int)saved);
            if (!stem_progress((double)now.done / (double)all, "number %lld of %lld", (long long)now.done, (long long)all))
                return stem_stopped();
        }
    }
    return stem_returnf("{\"sum\":%.15g,\"count\":%lld,\"resumedAt\":%lld}", now.sum, (long long)now.done,
                        (long long)resumed_at);
}
