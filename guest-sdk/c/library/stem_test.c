/* Stands in for the worker in native builds: the functions of stem0.h, and what looks at an attempt. */
#include "stem_test.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stem0.h"

enum { CHECKPOINT_BYTES = 256 * 1024 };

/* What stem.c keeps of the result. */
stem_text stem_result(void);

static stem_world world;
static stem_attempt now;
static stem_text input;
static jmp_buf forced;
static int checks, wrong;

/* A copy with a zero after it. Tests are short: nothing is freed. */
static stem_text copy(const void *bytes, size_t size) {
    char *memory = malloc(size + 1);
    if (memory == NULL) abort();
    if (size > 0) memcpy(memory, bytes, size);
    memory[size] = '\0';
    return (stem_text){memory, size};
}

static const char *string(stem_text json) {
    stem_text text = stem_json_string(json);
    return text.at ? text.at : "";
}

static int32_t copy_out(void *to, stem_text from, int32_t capacity) {
    size_t size = from.size < (size_t)capacity ? from.size : (size_t)capacity;
    if (size > 0) memcpy(to, from.at, size);
    return (int32_t)size;
}

static int32_t beat(void) {
    now.beats++;
    if (world.end_at > 0 && now.beats >= world.end_at) longjmp(forced, 1);
    return world.stop_at > 0 && now.beats >= world.stop_at;
}

int64_t stem0_input_len(void) { return (int64_t)input.size; }

int32_t stem0_input_read(void *to, int64_t offset, int32_t size) {
    size_t from = offset < 0 || (size_t)offset > input.size ? input.size : (size_t)offset;
    return copy_out(to, (stem_text){input.at + from, input.size - from}, size);
}

int32_t stem0_fail(int32_t kind, int64_t delay_ms, const char *json, int32_t size) {
    static const char *const kinds[] = {"", "retryable", "fatal", "cancelled"};
    stem_text words = {json, (size_t)size};
    if (kind < 1 || kind > 3 || delay_ms < 0 || !stem_json_is_valid(words)) return STEM_INVALID;
    now.kind = kinds[kind];
    now.after_ms = delay_ms;
    now.code = string(stem_json_get(words, "code"));
    now.message = string(stem_json_get(words, "message"));
    return 0;
}

int32_t stem0_heartbeat(void) { return beat(); }

int64_t stem0_extend_lease(int64_t ms) { return ms; }

int32_t stem0_progress(int32_t permille, const char *message, int32_t size) {
    now.fraction = permille < 0 ? -1.0 : permille / 1000.0;
    now.progress = copy(message, (size_t)size).at;
    return beat();
}

void stem0_log(int32_t level, const char *line, int32_t size) {
    (void)level;
    size_t before = strlen(now.log);
    char *log = malloc(before + (size_t)size + 2);
    if (log == NULL) abort();
    memcpy(log, now.log, before);
    memcpy(log + before, line, (size_t)size);
    memcpy(log + before + size, "\n", 2);
    now.log = log;
}

int32_t stem0_sleep(int64_t ms) {
    if (world.stop_at > 0 && now.beats >= world.stop_at) return STEM_STOPPING;
    now.slept_ms += ms;
    return 0;
}

int64_t stem0_time_left(int32_t which) { return which == STEM_HARD ? 60000 : -1; }

int32_t stem0_info(void *to, int32_t capacity) {
    char info[256];
    int size = snprintf(info, sizeof info,
                        "{\"task_id\":\"test\",\"task_name\":\"test\",\"queue\":\"default\",\"attempt\":%d,\"enqueued_at_ms\":0,"
                        "\"root_id\":\"test\",\"idempotency_key\":\"test\",\"headers\":[]}",
                        world.attempt ? (int)world.attempt : 1);
    copy_out(to, (stem_text){info, (size_t)size}, capacity);
    return size;
}

int32_t stem0_checkpoint_load(void *to, int32_t capacity) {
    if (now.checkpoint.at == NULL) return STEM_NOT_FOUND;
    copy_out(to, now.checkpoint, capacity);
    return (int32_t)now.checkpoint.size;
}

int32_t stem0_checkpoint_save(const void *from, int32_t size) {
    if (size > CHECKPOINT_BYTES) return STEM_TOO_LARGE;
    now.checkpoint = copy(from, (size_t)size);
    return 0;
}

/* Nothing is granted here. */
int32_t stem0_children_enqueue(const char *json, int32_t size, int32_t release, void *to, int32_t capacity) {
    (void)json, (void)size, (void)release, (void)to, (void)capacity;
    return STEM_DENIED;
}

int32_t stem0_kv_get(const char *bucket, int32_t bucket_size, const char *key, int32_t key_size, void *to, int32_t capacity,
                     void *version) {
    (void)bucket, (void)bucket_size, (void)key, (void)key_size, (void)to, (void)capacity, (void)version;
    return STEM_DENIED;
}

int64_t stem0_kv_put(const char *bucket, int32_t bucket_size, const char *key, int32_t key_size, const void *from, int32_t size,
                     int32_t when, int64_t version, int64_t ttl_ms) {
    (void)bucket, (void)bucket_size, (void)key, (void)key_size, (void)from, (void)size, (void)when, (void)version, (void)ttl_ms;
    return STEM_DENIED;
}

int32_t stem0_kv_remove(const char *bucket, int32_t bucket_size, const char *key, int32_t key_size, int32_t when,
                        int64_t version) {
    (void)bucket, (void)bucket_size, (void)key, (void)key_size, (void)when, (void)version;
    return STEM_DENIED;
}

static int32_t denied(const char *name, int32_t size, void *to, int32_t capacity) {
    (void)name, (void)size, (void)to, (void)capacity;
    return STEM_DENIED;
}

int32_t stem0_config_get(const char *key, int32_t size, void *to, int32_t capacity) { return denied(key, size, to, capacity); }

int32_t stem0_secret_placeholder(const char *name, int32_t size, void *to, int32_t capacity) {
    return denied(name, size, to, capacity);
}

int32_t stem0_secret_reveal(const char *name, int32_t size, void *to, int32_t capacity) { return denied(name, size, to, capacity); }

stem_attempt stem_test_run(stem_world the_world, const char *arguments) {
    world = the_world;
    input = stem_text_of(arguments);
    now = (stem_attempt){.kind = "", .code = "", .message = "", .fraction = -1.0, .progress = "", .log = ""};
    now.result = stem_text_of("");
    if (world.checkpoint.at) now.checkpoint = copy(world.checkpoint.at, world.checkpoint.size);
    stem_return("", 0);
    if (setjmp(forced)) {
        now.forced = true;
        now.end = STEM_FAILED;
        return now;
    }
    now.end = stem_task(input);
    if (now.end == STEM_RETURNED) now.result = copy(stem_result().at, stem_result().size);
    return now;
}

void stem_test_check(bool holds, const char *condition, const char *file, int line) {
    checks++;
    if (holds) return;
    wrong++;
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, condition);
}

void stem_test_check_text(const char *found, const char *expected, const char *what, const char *file, int line) {
    checks++;
    if (strcmp(found, expected) == 0) return;
    wrong++;
    fprintf(stderr, "%s:%d: %s is \"%s\", expected \"%s\"\n", file, line, what, found, expected);
}

int stem_test_report(void) {
    printf("%d checks, %d wrong\n", checks, wrong);
    return wrong > 0;
}
