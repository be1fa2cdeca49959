/* Stands in for the worker in native builds: the functions of stem0.h but for those behind grants, and what looks at an attempt. */
#include "stem_test.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stem0.h"

enum { CHECKPOINT_BYTES = 256 * 1024, FAIL_BYTES = 32 * 1024, PROGRESS_BYTES = 1024, INFO_BYTES = 256 };

/* Of stem.c: it forgets the attempt before, and what it keeps of the result. */
void stem_begin(const char *media_type);
stem_text stem_result(void);
/* Of stem_test_grants.c. */
void stem_begin_grants(const stem_world *the_world, stem_attempt *the_attempt);

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

static bool is_utf8(const char *at, int32_t size) {
    stem_text text = {at, (size_t)size};
    return stem_utf8(text).at == at;
}

static bool stop_is_pending(void) { return world.stop_at > 0 && now.beats >= world.stop_at; }

static int32_t beat(void) {
    now.beats++;
    if (world.end_at > 0 && now.beats >= world.end_at) longjmp(forced, 1);
    return stop_is_pending() ? 1 : 0;
}

int64_t stem0_input_len(void) { return (int64_t)input.size; }

int32_t stem0_input_read(void *to, int64_t offset, int32_t size) {
    size_t from = offset < 0 || (size_t)offset > input.size ? input.size : (size_t)offset;
    return copy_out(to, (stem_text){input.at + from, input.size - from}, size);
}

int32_t stem0_fail(int32_t kind, int64_t delay_ms, const char *json, int32_t size) {
    static const char *const kinds[] = {"", "retryable", "fatal", "cancelled"};
    stem_text words = {json, (size_t)size};
    if (size > FAIL_BYTES) return STEM_TOO_LARGE;
    if (kind < 1 || kind > 3 || delay_ms < 0 || !stem_json_is_valid(words)) return STEM_INVALID;
    now.kind = kinds[kind];
    now.after_ms = delay_ms;
    now.code = string(stem_json_get(words, "code"));
    now.message = string(stem_json_get(words, "message"));
    return 0;
}

int32_t stem0_heartbeat(void) { return beat(); }

int32_t stem0_stop_notice(void *to, int32_t capacity) {
    if (!stop_is_pending()) return STEM_NOT_FOUND;
    char grace[32] = "";
    if (world.stop_grace_ms > 0) snprintf(grace, sizeof grace, ",\"grace_ms\":%lld", (long long)world.stop_grace_ms);
    const char *code = stem_json_quoted(stem_text_of(world.stop_code ? world.stop_code : "worker-drain"));
    const char *message = stem_json_quoted(stem_text_of(world.stop_message ? world.stop_message : ""));
    static const char pattern[] = "{\"code\":%s,\"message\":%s%s}";
    size_t room = sizeof pattern + strlen(code) + strlen(message) + sizeof grace;
    char *json = malloc(room);
    if (json == NULL) abort();
    int size = snprintf(json, room, pattern, code, message, grace);
    copy_out(to, (stem_text){json, (size_t)size}, capacity);
    return size;
}

int64_t stem0_extend_lease(int64_t ms) { return ms; }

int32_t stem0_progress(int32_t permille, const char *message, int32_t size) {
    int32_t answer = beat();
    if (size > PROGRESS_BYTES) return STEM_TOO_LARGE;
    if (!is_utf8(message, size)) return STEM_INVALID;
    now.fraction = permille < 0 ? -1.0 : permille / 1000.0;
    now.progress = copy(message, (size_t)size).at;
    return answer;
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
    if (stop_is_pending()) return STEM_STOPPING;
    now.slept_ms += ms;
    return 0;
}

int64_t stem0_time_left(int32_t which) { return which == STEM_HARD ? 60000 : -1; }

int32_t stem0_info(void *to, int32_t capacity) {
    char info[INFO_BYTES];
    int size = snprintf(info, sizeof info,
                        "{\"task_id\":\"test\",\"task_name\":\"test\",\"queue\":\"default\",\"attempt\":%d,\"enqueued_at_ms\":0,"
                        "\"root_id\":\"test\",\"idempotency_key\":\"test\",\"headers\":[]}",
                        world.attempt ? (int)world.attempt : 1);
    copy_out(to, (stem_text){info, (size_t)size}, capacity);
    return size;
}

int32_t stem0_checkpoint_load(void *to, int32_t capacity) {
    if (world.unavailable) return STEM_UNAVAILABLE;
    if (now.checkpoint.at == NULL) return STEM_NOT_FOUND;
    copy_out(to, now.checkpoint, capacity);
    return (int32_t)now.checkpoint.size;
}

int32_t stem0_checkpoint_save(const void *from, int32_t size) {
    if (size > CHECKPOINT_BYTES) return STEM_TOO_LARGE;
    if (world.unavailable) return STEM_UNAVAILABLE;
    now.checkpoint = copy(from, (size_t)size);
    return 0;
}

stem_attempt stem_test_run(stem_world the_world, const char *arguments) {
    world = the_world;
    input = stem_text_of(arguments);
    now = (stem_attempt){.kind = "", .code = "", .message = "", .fraction = -1.0, .progress = "", .log = ""};
    now.result = stem_text_of("");
    if (world.checkpoint.at) now.checkpoint = copy(world.checkpoint.at, world.checkpoint.size);
    stem_begin(world.media_type);
    stem_begin_grants(&world, &now);
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
