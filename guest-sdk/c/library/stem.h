/* Stem tasks in C.
 *
 * A task is one function, stem_task. It is given its arguments, works, and ends with what one of stem_return, stem_retryable,
 * stem_fatal, stem_cancelled or stem_stopped gives back:
 *
 *     #include "stem.h"
 *
 *     stem_end stem_task(stem_text arguments) {
 *         int64_t steps;
 *         if (!stem_json_integer(stem_json_get(arguments, "steps"), &steps))
 *             return stem_fatal("invalid-arguments", "steps is not a whole number");
 *         for (int64_t step = 1; step <= steps; step++)
 *             if (!stem_progress((double)step / (double)steps, "step %lld", (long long)step)) return stem_stopped();
 *         return stem_returnf("{\"steps\":%lld}", (long long)steps);
 *     }
 *
 * Built for WebAssembly it is a WASI command, and what it prints is logged: standard error line by line, standard output when it
 * is flushed. A native build with stem_test.c runs the same function without a worker.
 *
 * Each attempt begins in fresh memory, which is dropped at its end: a task need not free anything. A call that finds the
 * attempt at its end by force does not return. */
#ifndef STEM_H
#define STEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define STEM_PRINTF(text, values) __attribute__((format(printf, text, values)))
#else
#define STEM_PRINTF(text, values)
#endif

/* Bytes that lie somewhere else; no zero at their end. */
typedef struct {
    const char *at;
    size_t size;
} stem_text;

/* How an attempt ended: to be returned by stem_task as it was got. */
typedef enum { STEM_RETURNED = 0, STEM_FAILED = 1 } stem_end;

/* Yours. The arguments are the payload's bytes, JSON unless whoever enqueued the task said otherwise. */
stem_end stem_task(stem_text arguments);

/* --- Ending ------------------------------------------------------------------------------------------------------- */

/* The result, at most 1 MiB, and no less than the whole: one that is larger fails. One JSON document is recorded as application/json, anything else as application/octet-stream. */
stem_end stem_return(const void *bytes, size_t size);
/* The same, as printf writes it. */
stem_end stem_returnf(const char *format, ...) STEM_PRINTF(1, 2);
/* A failure that another attempt may get over, not before after_ms milliseconds; 0 leaves that to the retry policy. The code
 * is one short word, cut at 64 bytes; the message is cut at 4,096. Bytes that are not UTF-8 become U+FFFD in both. */
stem_end stem_retryable(int64_t after_ms, const char *code, const char *format, ...) STEM_PRINTF(3, 4);
/* A failure that no other attempt gets over: the task becomes a dead letter. */
stem_end stem_fatal(const char *code, const char *format, ...) STEM_PRINTF(2, 3);
/* Giving up because a stop notice is pending; without one it counts as fatal. */
stem_end stem_cancelled(const char *code, const char *format, ...) STEM_PRINTF(2, 3);
/* The answer to a stop notice that most tasks want, with the notice's code and message: retryable where the task is still
 * wanted (worker-drain, worker-stop, soft-time-limit), cancelled otherwise. */
stem_end stem_stopped(void);

/* --- On the way --------------------------------------------------------------------------------------------------- */

/* These three say "go on?": true while no stop notice is pending. Call one in every long loop; they do no I/O. */
bool stem_heartbeat(void);
/* Publishes how far the task is, 0.0 to 1.0 in thousandths, negative where it cannot be told; the message is cut at 1,024
 * bytes, and bytes that are not UTF-8 become U+FFFD. */
bool stem_progress(double fraction, const char *format, ...) STEM_PRINTF(2, 3);
/* Waits, at most until a stop notice comes. */
bool stem_sleep(int64_t ms);

/* Why the attempt is asked to stop. Texts end with a zero. */
typedef struct {
    /* revoked, soft-time-limit, worker-drain, worker-stop, or a word of a later version: then finish early. */
    const char *code;
    /* For people; may be "". */
    const char *message;
    /* Milliseconds until the end by force; -1 if nobody means to. */
    int64_t grace_ms;
} stem_notice;
/* Whether a stop notice is pending, and which; unlike the three above it counts as no heartbeat. The notice may be NULL. */
bool stem_stop_requested(stem_notice *notice);

/* What a function below answers when it does not do its work; all are negative. */
enum {
    STEM_DENIED = -1,
    STEM_INVALID = -2,
    STEM_TOO_LARGE = -3,
    STEM_NOT_FOUND = -4,
    STEM_CONFLICT = -5,
    STEM_QUOTA = -6,
    STEM_UNAVAILABLE = -7,
    STEM_STOPPING = -8
};

/* State for the next attempt, at most 256 KiB. Returns 0 or an error; the former state stays then. */
int32_t stem_checkpoint_save(const void *bytes, size_t size);
/* Copies what was saved last into the buffer, as much of it as fits. Returns its whole size, STEM_NOT_FOUND where nothing was
 * saved, or another error: then it is not known whether there is one, so do not begin anew. */
int32_t stem_checkpoint_load(void *to, size_t capacity);

/* Asks for the lease to last so long from now; needed only before a long stretch without any call. Returns the milliseconds
 * that it now lasts, or an error. */
int64_t stem_extend_lease(int64_t ms);
/* Milliseconds until a limit; -1 where there is none. */
enum { STEM_SOFT = 0, STEM_HARD = 1 };
int64_t stem_time_left(int which);

/* One line of the task's log, cut at 4,096 bytes. */
typedef enum { STEM_TRACE, STEM_DEBUG, STEM_INFO, STEM_WARN, STEM_ERROR } stem_level;
void stem_log(stem_level level, const char *format, ...) STEM_PRINTF(2, 3);

/* Facts about the attempt, as a JSON object: task_id, task_name, queue, attempt, max_attempts, enqueued_at_ms, parent_id,
 * root_id, idempotency_key, trace_parent, headers. What is not known has no key. */
stem_text stem_info(void);
/* The media type of the arguments. */
const char *stem_media_type(void);

/* --- JSON --------------------------------------------------------------------------------------------------------- */

/* Reading goes over text that is checked once: stem_json_is_valid(arguments), then any of the others. On a value that is not
 * there (size 0) or of another kind they answer false or an empty text and leave `to` as it was, so calls can be chained. Text
 * of more than 64 levels is not taken. */
bool stem_json_is_valid(stem_text json);
/* The value of a key; the last one where a key stands twice. Keys with escapes in them are not found. */
stem_text stem_json_get(stem_text object, const char *key);
/* Walks an array: begin with a copy of the array's text; each call takes one value off it. */
bool stem_json_next(stem_text *array, stem_text *value);
/* One that a double can hold. */
bool stem_json_number(stem_text value, double *to);
/* Whole numbers written without fraction and exponent. */
bool stem_json_integer(stem_text value, int64_t *to);
bool stem_json_is_object(stem_text value);
bool stem_json_is_array(stem_text value);
/* The text of a string, unescaped, in memory of its own with a zero after it; at == NULL if it is no string. A zero may
 * also stand in it. */
stem_text stem_json_string(stem_text value);
/* A string as JSON, quotes included, in memory of its own with a zero after it. Bytes that are not UTF-8 become U+FFFD. */
const char *stem_json_quoted(stem_text text);

/* A zero-terminated string as a text. */
stem_text stem_text_of(const char *string);
/* The text itself if it is UTF-8; else a copy, with a zero after it, in which U+FFFD stands for each byte that is not. */
stem_text stem_utf8(stem_text text);

#ifdef __cplusplus
}
#endif

#endif
