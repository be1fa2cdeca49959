/* Local tests of a task, natively and without a worker: compile the task and all of stem/ with any C compiler, together with a
 * main that runs attempts and looks at them.
 *
 *     stem_attempt attempt = stem_test_run((stem_world){.stop_at = 3}, "{\"steps\":10}");
 *     STEM_CHECK(attempt.end == STEM_FAILED);
 *     STEM_CHECK_TEXT(attempt.code, "worker-drain");
 *     return stem_test_report();
 */
#ifndef STEM_TEST_H
#define STEM_TEST_H

#include "stem.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A name and what stands behind it; a list of them ends with a name that is NULL. */
typedef struct {
    const char *name;
    const char *value;
} stem_named;

/* What an attempt finds. All zero is a first attempt that nobody stops. */
typedef struct {
    /* The number of the heartbeat or progress update that finds a stop notice pending; later ones find it too. 0: none. */
    int64_t stop_at;
    /* What that notice says; NULL is worker-drain without a message, 0 that nobody means to end it by force. */
    const char *stop_code;
    const char *stop_message;
    int64_t stop_grace_ms;
    /* The number of the one that does not return, since the attempt ends by force. 0: none. */
    int64_t end_at;
    /* What an earlier attempt saved. */
    stem_text checkpoint;
    /* Which attempt it is; 0 counts as 1. */
    int32_t attempt;
    /* The media type of the arguments; NULL is application/json. */
    const char *media_type;
    /* Checkpoints are neither read nor saved: STEM_UNAVAILABLE. */
    bool unavailable;
    /* What it is granted; anything else is denied. Lists of names end with NULL; a * at the end of a name stands for more. */
    const char *const *children;
    /* To read and to write; see stem_test_put. */
    const char *const *buckets;
    const stem_named *config;
    /* To reveal and to send. */
    const stem_named *secrets;
} stem_world;

/* What an attempt did. Texts end with a zero and are "" where there is none. */
typedef struct {
    stem_end end;
    /* It was ended by force, and nothing came of it. */
    bool forced;
    stem_text result;
    /* retryable, fatal or cancelled. */
    const char *kind;
    const char *code;
    const char *message;
    int64_t after_ms;
    /* Heartbeats and progress updates. */
    int64_t beats;
    /* The last progress update; the fraction is -1 where it cannot be told. */
    double fraction;
    const char *progress;
    /* The checkpoint as it stands at the end; at == NULL if none was ever saved. */
    stem_text checkpoint;
    /* The log, each line with a line feed. */
    const char *log;
    /* The tasks that it has enqueued, as a JSON array: of each its release, now or on-success, and the task as it was given. */
    stem_text children;
    /* The waits, which take no time here. */
    int64_t slept_ms;
} stem_attempt;

/* Runs stem_task once with these arguments, which end with a zero. */
stem_attempt stem_test_run(stem_world world, const char *arguments);

/* Values in buckets stay from attempt to attempt: puts one, and looks at one; at == NULL if there is none. */
void stem_test_put(const char *bucket, const char *key, stem_text value);
stem_text stem_test_value(const char *bucket, const char *key);

/* Says what does not hold, and goes on. */
#define STEM_CHECK(condition) stem_test_check((condition), #condition, __FILE__, __LINE__)
#define STEM_CHECK_TEXT(found, expected) stem_test_check_text((found), (expected), #found, __FILE__, __LINE__)
void stem_test_check(bool holds, const char *condition, const char *file, int line);
void stem_test_check_text(const char *found, const char *expected, const char *what, const char *file, int line);
/* Says how many checks there were, and what main is to return. */
int stem_test_report(void);

#ifdef __cplusplus
}
#endif

#endif
