/* stem_grants.h over the functions of stem0.h. */
#include "stem_grants.h"

#include <stdlib.h>
#include <string.h>

#include "stem0.h"

/* No id of a child is longer with its quotes and comma. */
enum { CHILD_BYTES = 131, FIRST_BYTES = 256 };

/* Where a function of the worker is to put its answer. */
typedef int32_t (*asked)(const char *name, void *to, int32_t capacity, void *context);

/* Asks again with a buffer that is large enough; the value may have grown in between. */
static int32_t fetch(asked ask, const char *name, void *context, stem_text *value) {
    int32_t capacity = FIRST_BYTES;
    for (;;) {
        char *memory = malloc((size_t)capacity + 1);
        if (memory == NULL) abort();
        int32_t size = ask(name, memory, capacity, context);
        if (size < 0) {
            free(memory);
            return size;
        }
        if (size <= capacity) {
            memory[size] = '\0';
            *value = (stem_text){memory, (size_t)size};
            return 0;
        }
        free(memory);
        capacity = size;
    }
}

int32_t stem_enqueue(const char *tasks, int release, stem_text *ids) {
    stem_text rest = stem_text_of(tasks), task;
    if (!stem_json_is_valid(rest)) return STEM_INVALID;
    int32_t capacity = 2;
    while (stem_json_next(&rest, &task)) capacity += CHILD_BYTES;
    char *memory = malloc((size_t)capacity + 1);
    if (memory == NULL) abort();
    int32_t size = stem0_children_enqueue(tasks, (int32_t)strlen(tasks), release, memory, capacity);
    if (size < 0) return size;
    size = size < capacity ? size : capacity;
    memory[size] = '\0';
    *ids = (stem_text){memory, (size_t)size};
    return 0;
}

typedef struct {
    const char *bucket;
    unsigned char version[8];
} place;

static int32_t ask_bucket(const char *key, void *to, int32_t capacity, void *context) {
    place *at = context;
    return stem0_kv_get(at->bucket, (int32_t)strlen(at->bucket), key, (int32_t)strlen(key), to, capacity, at->version);
}

int32_t stem_kv_get(const char *bucket, const char *key, stem_text *value, int64_t *version) {
    place at = {bucket, {0}};
    int32_t answer = fetch(ask_bucket, key, &at, value);
    uint64_t number = 0;
    for (int byte = 7; byte >= 0; byte--) number = number << 8 | at.version[byte];
    if (answer == 0) *version = (int64_t)number;
    return answer;
}

int64_t stem_kv_put(const char *bucket, const char *key, stem_text value, int when, int64_t version, int64_t ttl_ms) {
    if (value.size > INT32_MAX) return STEM_TOO_LARGE;
    return stem0_kv_put(bucket, (int32_t)strlen(bucket), key, (int32_t)strlen(key), value.at, (int32_t)value.size, when,
                        version, ttl_ms);
}

int32_t stem_kv_remove(const char *bucket, const char *key, int when, int64_t version) {
    return stem0_kv_remove(bucket, (int32_t)strlen(bucket), key, (int32_t)strlen(key), when, version);
}

static int32_t ask_config(const char *key, void *to, int32_t capacity, void *context) {
    (void)context;
    return stem0_config_get(key, (int32_t)strlen(key), to, capacity);
}

static int32_t ask_placeholder(const char *name, void *to, int32_t capacity, void *context) {
    (void)context;
    return stem0_secret_placeholder(name, (int32_t)strlen(name), to, capacity);
}

static int32_t ask_secret(const char *name, void *to, int32_t capacity, void *context) {
    (void)context;
    return stem0_secret_reveal(name, (int32_t)strlen(name), to, capacity);
}

int32_t stem_config(const char *key, stem_text *value) { return fetch(ask_config, key, NULL, value); }

int32_t stem_secret_placeholder(const char *name, stem_text *value) { return fetch(ask_placeholder, name, NULL, value); }

int32_t stem_secret_reveal(const char *name, stem_text *value) { return fetch(ask_secret, name, NULL, value); }
