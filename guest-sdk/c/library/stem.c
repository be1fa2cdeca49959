/* stem.h over the functions of stem0.h. */
#include "stem.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stem0.h"

enum { MESSAGE_BYTES = 4096, PROGRESS_BYTES = 1024, LINE_BYTES = 4096 };
enum { RETRYABLE = 1, FATAL = 2, CANCELLED = 3 };

/* What stem_return was given last. */
static stem_text result;

#ifndef __wasm__
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

/* As vsnprintf, into memory of its own. */
static stem_text formatted(const char *format, va_list values) {
    va_list again;
    va_copy(again, values);
    int size = vsnprintf(NULL, 0, format, values);
    stem_text text = {"", 0};
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
    memcpy(kept, bytes, size);
    result = (stem_text){kept, size};
    return STEM_RETURNED;
}

stem_end stem_returnf(const char *format, ...) {
    va_list values;
    va_start(values, format);
    result = formatted(format, values);
    va_end(values);
    return STEM_RETURNED;
}

static stem_end fail(int32_t kind, int64_t after_ms, const char *code, stem_text message) {
    message.size = cut(message.at, message.size, MESSAGE_BYTES);
    const char *quoted_code = stem_json_quoted(stem_text_of(code));
    const char *quoted_message = stem_json_quoted(message);
    size_t size = strlen(quoted_code) + strlen(quoted_message) + sizeof "{\"code\":,\"message\":}";
    char *json = take(size);
    snprintf(json, size, "{\"code\":%s,\"message\":%s}", quoted_code, quoted_message);
    if (stem0_fail(kind, after_ms < 0 ? 0 : after_ms, json, (int32_t)strlen(json)) != 0) {
        static const char unreadable[] = "{\"code\":\"failed\",\"message\":\"the failure's words are not UTF-8\"}";
        stem0_fail(kind, 0, unreadable, sizeof unreadable - 1);
    }
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

stem_end stem_stopped(void) { return stem_cancelled("stop-requested", "asked to stop"); }

bool stem_heartbeat(void) { return stem0_heartbeat() == 0; }

bool stem_progress(double fraction, const char *format, ...) {
    /* On the stack: a loop calls this very often. */
    char message[PROGRESS_BYTES + 5];
    va_list values;
    va_start(values, format);
    int size = vsnprintf(message, sizeof message, format, values);
    va_end(values);
    size_t kept = size < 0 ? 0 : (size_t)size < sizeof message ? (size_t)size : sizeof message - 1;
    kept = cut(message, kept, PROGRESS_BYTES);
    int32_t permille = -1;
    if (fraction >= 0.0) permille = fraction >= 1.0 ? 1000 : (int32_t)lround(fraction * 1000.0);
    return stem0_progress(permille, message, (int32_t)kept) != 1;
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
    stem0_log(level, line, (int32_t)cut(line, kept, LINE_BYTES));
}

stem_text stem_info(void) {
    static stem_text info;
    if (info.at == NULL) {
        int32_t size = stem0_info(NULL, 0);
        char *text = take(size > 0 ? (size_t)size : 0);
        if (size > 0) stem0_info(text, size);
        info = (stem_text){text, size > 0 ? (size_t)size : 0};
    }
    return info;
}

const char *stem_media_type(void) {
    const char *type = getenv("STEM_MEDIA_TYPE");
    return type ? type : "application/json";
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
    if (end == STEM_RETURNED && fwrite(result.at, 1, result.size, stdout) != result.size) return 1;
    return end;
}
#endif
