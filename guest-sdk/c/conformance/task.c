/* The conformance task, as guest-sdk/CONFORMANCE.md describes it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stem/stem.h"

static stem_end invalid(const char *what) { return stem_fatal("invalid-arguments", "%s", what); }

/* A whole number from 0 on. */
static bool whole(stem_text arguments, const char *key, int64_t *to) {
    return stem_json_integer(stem_json_get(arguments, key), to) && *to >= 0;
}

/* The value of a key as a zero-terminated string. */
static const char *string(stem_text object, const char *key) {
    return stem_json_string(stem_json_get(object, key)).at;
}

static stem_end echo(stem_text arguments) {
    stem_text text = stem_json_string(stem_json_get(arguments, "text"));
    if (text.at == NULL) return invalid("text is not a string");
    return stem_returnf("{\"text\":%s,\"bytes\":%zu}", stem_json_quoted(text), text.size);
}

static const char *quoted(stem_text object, const char *key) {
    return stem_json_quoted(stem_json_string(stem_json_get(object, key)));
}

static stem_end info(void) {
    stem_text info = stem_info();
    int64_t attempt = 0;
    stem_json_integer(stem_json_get(info, "attempt"), &attempt);
    return stem_returnf("{\"taskName\":%s,\"queue\":%s,\"attempt\":%" PRId64 ",\"idempotencyKey\":%s}",
                        quoted(info, "task_name"), quoted(info, "queue"), attempt, quoted(info, "idempotency_key"));
}

static stem_end fail(stem_text arguments) {
    const char *kind = string(arguments, "kind");
    const char *code = string(arguments, "code");
    const char *message = string(arguments, "message");
    if (kind == NULL || code == NULL || message == NULL) return invalid("kind, code or message is not a string");
    int64_t after_ms = 0;
    if (stem_json_get(arguments, "afterMs").size > 0 && !whole(arguments, "afterMs", &after_ms))
        return invalid("afterMs is not a whole number");
    if (strcmp(kind, "retryable") == 0) return stem_retryable(after_ms, code, "%s", message);
    if (strcmp(kind, "fatal") == 0) return stem_fatal(code, "%s", message);
    if (strcmp(kind, "cancelled") == 0) return stem_cancelled(code, "%s", message);
    return invalid("kind is not retryable, fatal or cancelled");
}

static stem_end pause(stem_text arguments) {
    int64_t ms;
    if (!whole(arguments, "ms", &ms)) return invalid("ms is not a whole number");
    if (!stem_sleep(ms)) return stem_stopped();
    return stem_returnf("{\"ms\":%" PRId64 "}", ms);
}

static stem_end progress(stem_text arguments) {
    int64_t steps;
    if (!whole(arguments, "steps", &steps)) return invalid("steps is not a whole number");
    if (!stem_heartbeat()) return stem_stopped();
    for (int64_t step = 1; step <= steps; step++) {
        double done = (double)step / (double)steps;
        if (!stem_progress(done, "step %" PRId64 " of %" PRId64, step, steps)) return stem_stopped();
    }
    return stem_returnf("{\"steps\":%" PRId64 "}", steps);
}

static stem_end beat(void) {
    if (!stem_progress(-1.0, "beating")) return stem_stopped();
    while (stem_heartbeat()) continue;
    return stem_stopped();
}

static stem_end allocate(stem_text arguments) {
    enum { MIB = 1 << 20, PAGE = 4096 };
    int64_t mib;
    if (!whole(arguments, "mib", &mib)) return invalid("mib is not a whole number");
    for (int64_t block = 0; block < mib; block++) {
        /* Volatile, so that the compiler does not leave out what nobody reads. */
        volatile char *memory = malloc(MIB);
        if (memory == NULL) abort();
        for (size_t at = 0; at < MIB; at += PAGE) memory[at] = 1;
    }
    return stem_returnf("{\"mib\":%" PRId64 "}", mib);
}

static stem_end spin(stem_text arguments) {
    int64_t rounds = 0;
    bool bounded = stem_json_get(arguments, "rounds").size > 0;
    if (bounded && !whole(arguments, "rounds", &rounds)) return invalid("rounds is not a whole number");
    if (!bounded && !stem_progress(-1.0, "spinning")) return stem_stopped();
    volatile uint32_t kept = 1;
    uint32_t x = 1;
    for (int64_t round = 0; !bounded || round < rounds; round++) {
        x = x * 1664525u + 1013904223u;
        if (!bounded) kept = x;
    }
    (void)kept;
    return stem_returnf("{\"rounds\":%" PRId64 ",\"x\":%" PRIu32 "}", rounds, x);
}

static stem_end checkpoint(stem_text arguments) {
    int64_t steps, stop_at;
    if (!whole(arguments, "steps", &steps) || !whole(arguments, "stopAt", &stop_at))
        return invalid("steps or stopAt is not a whole number");
    char state[64];
    int64_t from = 0;
    int32_t size = stem_checkpoint_load(state, sizeof state);
    if (size < 0 && size != STEM_NOT_FOUND) return stem_retryable(0, "checkpoint", "it was not read: %d", (int)size);
    if (size > (int32_t)sizeof state) return stem_fatal("invalid-checkpoint", "it has %d bytes", (int)size);
    if (size >= 0 && !stem_json_integer(stem_json_get((stem_text){state, (size_t)size}, "step"), &from))
        return stem_fatal("invalid-checkpoint", "it has no step");
    for (int64_t step = from + 1; step <= steps; step++) {
        int written = snprintf(state, sizeof state, "{\"step\":%" PRId64 "}", step);
        int32_t saved = stem_checkpoint_save(state, (size_t)written);
        if (saved < 0) return stem_retryable(0, "checkpoint", "it was not saved: %d", (int)saved);
        if (from == 0 && step == stop_at)
            return stem_retryable(0, "interrupted", "stopped at step %" PRId64, step);
    }
    return stem_returnf("{\"from\":%" PRId64 ",\"steps\":%" PRId64 "}", from, steps);
}

stem_end stem_task(stem_text arguments) {
    if (strcmp(stem_media_type(), "application/octet-stream") == 0) return stem_return(arguments.at, arguments.size);
    if (!stem_json_is_valid(arguments) || !stem_json_is_object(arguments)) return invalid("give a JSON object");
    const char *op = string(arguments, "op");
    if (op == NULL) return invalid("op is not a string");
    if (strcmp(op, "echo") == 0) return echo(arguments);
    if (strcmp(op, "info") == 0) return info();
    if (strcmp(op, "fail") == 0) return fail(arguments);
    if (strcmp(op, "sleep") == 0) return pause(arguments);
    if (strcmp(op, "progress") == 0) return progress(arguments);
    if (strcmp(op, "beat") == 0) return beat();
    if (strcmp(op, "allocate") == 0) return allocate(arguments);
    if (strcmp(op, "spin") == 0) return spin(arguments);
    if (strcmp(op, "checkpoint") == 0) return checkpoint(arguments);
    return stem_fatal("unknown-op", "unknown op %s", op);
}
