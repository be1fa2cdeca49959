/* What a task in C may do to itself, and what it reaches by grants; tests/tests/languages/edges.rs says what comes of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stem/stem_grants.h"

#define MUST(condition) \
    if (!(condition)) return stem_fatal("wrong", "line %d: %s", __LINE__, #condition)

static stem_end grants(void) {
    stem_text value, one = stem_text_of("one");
    int64_t version = 0;
    MUST(stem_kv_get("seen", "k", &value, &version) == STEM_NOT_FOUND);
    int64_t first = stem_kv_put("seen", "k", one, STEM_IF_ABSENT, 0, 60000);
    MUST(first > 0);
    MUST(stem_kv_put("seen", "k", one, STEM_IF_ABSENT, 0, 0) == STEM_CONFLICT);
    MUST(stem_kv_get("seen", "k", &value, &version) == 0 && version == first);
    MUST(strcmp(value.at, "one") == 0);
    /* More than the library asks for at first. */
    static char large[5000];
    memset(large, 'x', sizeof large);
    stem_text more = {large, sizeof large};
    MUST(stem_kv_put("seen", "k", more, STEM_IF_VERSION, first, 0) > first);
    MUST(stem_kv_put("seen", "k", more, STEM_IF_VERSION, first, 0) == STEM_CONFLICT);
    MUST(stem_kv_get("seen", "k", &value, &version) == 0 && version > first);
    MUST(value.size == sizeof large && memcmp(value.at, large, sizeof large) == 0);
    MUST(stem_kv_remove("seen", "k", STEM_IF_VERSION, first) == STEM_CONFLICT);
    MUST(stem_kv_remove("seen", "k", STEM_ALWAYS, 0) == 0);
    MUST(stem_kv_remove("seen", "k", STEM_ALWAYS, 0) == STEM_NOT_FOUND);
    MUST(stem_kv_put("seen", "empty", (stem_text){NULL, 0}, STEM_ALWAYS, 0, 0) > 0);
    MUST(stem_kv_get("seen", "empty", &value, &version) == 0 && value.size == 0);
    MUST(stem_kv_put("fonts", "k", one, STEM_ALWAYS, 0, 0) == STEM_DENIED);
    MUST(stem_kv_get("other", "k", &value, &version) == STEM_DENIED);
    MUST(stem_config("NONE", &value) == STEM_DENIED);
    stem_text size, secret, stand_in;
    MUST(stem_config("SIZE", &size) == 0);
    MUST(stem_secret_reveal("KEY", &secret) == 0 && strcmp(secret.at, "hush") == 0);
    MUST(stem_secret_placeholder("KEY", &stand_in) == 0 && stand_in.size > 10 && strstr(stand_in.at, "hush") == NULL);
    stem_text ids;
    MUST(stem_enqueue("[{\"task_name\":\"other\"}]", STEM_NOW, &ids) == STEM_DENIED);
    MUST(stem_enqueue("[]", STEM_NOW, &ids) == 0 && strcmp(ids.at, "[]") == 0);
    MUST(stem_enqueue("[{\"task_name\":\"thumb.small\",\"input\":{\"n\":1},\"dedup_key\":\"k\",\"delay_ms\":1500},"
                      "{\"task_name\":\"thumb.large\",\"input_base64\":\"iVBORw==\",\"media_type\":\"image/png\"}]",
                      STEM_ON_SUCCESS, &ids) == 0);
    MUST(stem_json_is_valid(ids) && stem_json_is_array(ids));
    return stem_returnf("{\"size\":%s}", stem_json_quoted(size));
}

/* Not for the compiler to see through. */
static volatile int deep = 1;

static int falls(int depth) {
    volatile char here[256];
    here[depth % 256] = (char)depth;
    return deep ? falls(depth + 1) + here[depth % 256] : 0;
}

stem_end stem_task(stem_text arguments) {
    const char *op = stem_json_string(stem_json_get(arguments, "op")).at;
    if (op == NULL) return stem_fatal("invalid-arguments", "op is not a string");
    if (strcmp(op, "grants") == 0) return grants();
    if (strcmp(op, "print") == 0) {
        printf("a word\nand another");
        return stem_returnf("{\"printed\":true}");
    }
    if (strcmp(op, "empty") == 0) return stem_return(NULL, 0);
    if (strcmp(op, "large") == 0) return stem_return(calloc(1, (1 << 20) + 1), (1 << 20) + 1);
    if (strcmp(op, "exit-0") == 0) exit(0);
    if (strcmp(op, "exit-255") == 0) exit(-1);
    if (strcmp(op, "crash") == 0) abort();
    if (strcmp(op, "deep") == 0) return falls(0) ? STEM_FAILED : STEM_RETURNED;
    return stem_fatal("unknown-op", "unknown op %s", op);
}
