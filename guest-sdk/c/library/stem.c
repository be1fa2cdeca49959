/* stem.h over the functions of stem0.h. */
#include "stem.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stem0.h"

enum { CODE_BYTES = 64, MESSAGE_BYTES = 4096, PROGRESS_BYTES = 1024, LINE_BYTES = 4096, NOTICE_BYTES = 256 };
enum { RETRYABLE = 1, FATAL = 2, CANCELLED = 3 };

/* What stem_return was given last. */
static stem_text result;
/* What stem_info has found. */
static stem_text info;

#ifndef __wasm__
static const char *media_type;

/* For stem_test.c, which runs several attempts in one memory. */
void stem_begin(const char *type) {
    static const stem_text nothing;
    result = info = nothing;
    media_type = type;
}

stem_text stem_result(void) { return result; }
#endif

/* Memory that must be there; a task that is out of it ends. */
static void *take(size_t size) {
    void *memory = malloc(size ? size : 1);
    if (memory == NULL) abort();
    return memory;
}

/* Cuts at the last whole character that ends at or before the limit. */
static size_t cut(const char *text, size_t size, size_t limit) {
    if (size <= limit) return size;
    while (limit > 0 && ((unsigned char)text[limit] & 0xC0) == 0x80) limit--;
    return limit;
}

/* As vsnprintf, into memory of its own; at == NULL where that cannot write it. */
static stem_text formatted(const char *format, va_list values) {
    va_list again;
    va_copy(again, values);
    int size = vsnprintf(NULL, 0, format, values);
    stem_text text = {NULL, 0};
    if (size >= 0) {
        char *memory = take((size_t)size + 1);
        vsnprintf(memory, (size_t)size + 1, format, again);
        text = (stem_text){memory, (size_t)size};
    }
    va_end(again);
    return text;
}

stem_text stem_text_of(const char *string) { return (stem_text){string, strlen(string)}; }

stem_end stem_return(const void *bytes, size_t size) {
    char *kept = take(size);
    if (size > 0) memcpy(kept, bytes, size);
    result = (stem_text){kept, size};
    return STEM_RETURNED;
}

stem_end stem_returnf(const char *format, ...) {
    va_list values;
    va_start(values, format);
    result = formatted(format, values);
    va_end(values);
    if (result.at == NULL) return stem_fatal("invalid-result", "the result cannot be written as its format says");
    return STEM_RETURNED;
}

static stem_end fail(int32_t kind, int64_t after_ms, const char *code, stem_text message) {
    stem_text word = stem_utf8(stem_text_of(code));
    word.size = cut(word.at, word.size, CODE_BYTES);
    message = stem_utf8(message);
    message.size = cut(message.at, message.size, MESSAGE_BYTES);
    const char *quoted_code = stem_json_quoted(word);
    const char *quoted_message = stem_json_quoted(message);
    size_t size = strlen(quoted_code) + strlen(quoted_message) + sizeof "{\"code\":,\"message\":}";
    char *json = take(size);
    snprintf(json, size, "{\"code\":%s,\"message\":%s}", quoted_code, quoted_message);
    /* Within its bounds, so nothing is refused. */
    stem0_fail(kind, after_ms < 0 ? 0 : after_ms, json, (int32_t)strlen(json));
    return STEM_FAILED;
}

stem_end stem_retryable(int64_t after_ms, const char *code, const char *format, ...) {
    va_list values;
    va_start(values, format);
    stem_text message = formatted(format, values);
    va_end(values);
    return fail(RETRYABLE, after_ms, code, message);
}

stem_end stem_fatal(const char *code, const char *format, ...) {
    va_list values;
    va_start(values, format);
    stem_text message = formatted(format, values);
    va_end(values);
    return fail(FATAL, 0, code, message);
}

stem_end stem_cancelled(const char *code, const char *format, ...) {
    va_list values;
    va_start(values, format);
    stem_text message = formatted(format, values);
    va_end(values);
    return fail(CANCELLED, 0, code, message);
}

/* The text of a key, "" without one. */
static const char *text_of_key(stem_text object, const char *key) {
    stem_text text = stem_json_string(stem_json_get(object, key));
    return text.at ? text.at : "";
}

bool stem_stop_requested(stem_notice *notice) {
    if (notice == NULL) return stem0_stop_notice(NULL, 0) >= 0;
    for (int32_t capacity = NOTICE_BYTES;;) {
        char *memory = take((size_t)capacity);
        int32_t size = stem0_stop_notice(memory, capacity);
        if (size >= 0 && size <= capacity) {
            stem_text json = {memory, (size_t)size};
            *notice = (stem_notice){text_of_key(json, "code"), text_of_key(json, "message"), -1};
            stem_json_integer(stem_json_get(json, "grace_ms"), &notice->grace_ms);
        }
        free(memory);
        if (size <= capacity) return size >= 0;
        capacity = size;
    }
}

stem_end stem_stopped(void) {
    static const char *const still_wanted[] = {"worker-drain", "worker-stop", "soft-time-limit"};
    stem_notice notice;
    if (!stem_stop_requested(&notice)) return stem_cancelled("stop-requested", "asked to stop");
    const char *message = notice.message[0] ? notice.message : "asked to stop";
    for (size_t i = 0; i < sizeof still_wanted / sizeof *still_wanted; i++)
        if (strcmp(notice.code, still_wanted[i]) == 0) return stem_retryable(0, notice.code, "%s", message);
    return stem_cancelled(notice.code, "%s", message);
}

bool stem_heartbeat(void) { return stem0_heartbeat() == 0; }

bool stem_progress(double fraction, const char *format, ...) {
    /* On the stack: a loop calls this very often. */
    char message[PROGRESS_BYTES + 5];
    va_list values;
    va_start(values, format);
    int size = vsnprintf(message, sizeof message, format, values);
    va_end(values);
    size_t kept = size < 0 ? 0 : (size_t)size < sizeof message ? (size_t)size : sizeof message - 1;
    /* One that is not UTF-8 would be refused, and the refusal would say nothing of a stop notice. */
    stem_text text = stem_utf8((stem_text){message, cut(message, kept, PROGRESS_BYTES)});
    text.size = cut(text.at, text.size, PROGRESS_BYTES);
    int32_t permille = -1;
    if (fraction >= 0.0) permille = fraction >= 1.0 ? 1000 : (int32_t)lround(fraction * 1000.0);
    bool go_on = stem0_progress(permille, text.at, (int32_t)text.size) != 1;
    if (text.at != message) free((char *)text.at);
    return go_on;
}

bool stem_sleep(int64_t ms) { return stem0_sleep(ms < 0 ? 0 : ms) != STEM_STOPPING; }

int32_t stem_checkpoint_save(const void *bytes, size_t size) {
    if (size > INT32_MAX) return STEM_TOO_LARGE;
    return stem0_checkpoint_save(bytes, (int32_t)size);
}

int32_t stem_checkpoint_load(void *to, size_t capacity) {
    return stem0_checkpoint_load(to, capacity > INT32_MAX ? INT32_MAX : (int32_t)capacity);
}

int64_t stem_extend_lease(int64_t ms) { return stem0_extend_lease(ms); }

int64_t stem_time_left(int which) { return stem0_time_left(which); }

void stem_log(stem_level level, const char *format, ...) {
    char line[LINE_BYTES + 5];
    va_list values;
    va_start(values, format);
    int size = vsnprintf(line, sizeof line, format, values);
    va_end(values);
    size_t kept = size < 0 ? 0 : (size_t)size < sizeof line ? (size_t)size : sizeof line - 1;
    stem0_log((int32_t)level, line, (int32_t)cut(line, kept, LINE_BYTES));
}

stem_text stem_info(void) {
    if (info.at == NULL) {
        int32_t size = stem0_info(NULL, 0);
        char *text = take(size > 0 ? (size_t)size : 0);
        if (size > 0) stem0_info(text, size);
        info = (stem_text){text, size > 0 ? (size_t)size : 0};
    }
    return info;
}

const char *stem_media_type(void) {
#ifdef __wasm__
    const char *media_type = getenv("STEM_MEDIA_TYPE");
#endif
    return media_type ? media_type : "application/json";
}

#ifdef __wasm__
int main(void) {
    int64_t size = stem0_input_len();
    char *input = take((size_t)size);
    for (int64_t done = 0; done < size;) {
        int32_t read = stem0_input_read(input + done, done, (int32_t)(size - done));
        if (read <= 0) break;
        done += read;
    }
    stem_end end = stem_task((stem_text){input, (size_t)size});
    if (end != STEM_RETURNED) return (int)end;
    int32_t bytes = result.size > INT32_MAX ? INT32_MAX : (int32_t)result.size;
    /* One that is refused is too large, as the worker says itself. */
    return stem0_output_write(result.at, bytes) == 0 ? 0 : 1;
}
#endif
