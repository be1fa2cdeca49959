/* Local tests of a task, natively and without a worker: compile the task, stem.c, stem_json.c and stem_test.c with any C
 * compiler, together with a main that runs attempts and looks at them.
 *
 *     stem_attempt attempt = stem_test_run((stem_world){.stop_at = 3}, "{\"steps\":10}");
 *     STEM_CHECK(attempt.end == STEM_FAILED);
 *     STEM_CHECK_TEXT(attempt.code, "stop-requested");
 *     return stem_test_report();
 */
#ifndef STEM_TEST_H
#define STEM_TEST_H

#include "stem.h"

/* What an attempt finds. All zero is a first attempt that nobody stops. */
typedef struct {
    /* The number of the heartbeat or progress update that finds a stop notice pending; later ones find it too. 0: none. */
    int64_t stop_at;
    /* The number of the one that does not return, since the attempt ends by force. 0: none. */
    int64_t end_at;
    /* What an earlier attempt saved. */
    stem_text checkpoint;
    /* Which attempt it is; 0 counts as 1. */
    int32_t attempt;
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
    /* The waits, which take no time here. */
    int64_t slept_ms;
} stem_attempt;

/* Runs stem_task once with these arguments, which end with a zero. */
stem_attempt stem_test_run(stem_world world, const char *arguments);

/* Says what does not hold, and goes on. */
#define STEM_CHECK(condition) stem_test_check((condition), #condition, __FILE__, __LINE__)
#define STEM_CHECK_TEXT(found, expected) stem_test_check_text((found), (expected), #found, __FILE__, __LINE__)
void stem_test_check(bool holds, const char *condition, const char *file, int line);
void stem_test_check_text(const char *found, const char *expected, const char *what, const char *file, int line);
/* Says how many checks there were, and what main is to return. */
int stem_test_report(void);

#endif
