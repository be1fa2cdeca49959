/* Stands in for the worker in native builds where a task uses what it is granted: children, buckets, settings, secrets. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stem0.h"
#include "stem_grants.h"
#include "stem_test.h"

enum { VALUE_BYTES = 64 * 1024, CHILDREN_OF_CALL = 100, CHILDREN_OF_ATTEMPT = 1000, NAME_BYTES = 160 };

/* A value in a bucket. It stays where it is when the value is removed: versions only grow. */
typedef struct kept {
    struct kept *next;
    char *bucket;
    char *key;
    stem_text value;
    int64_t version;
    bool there;
} kept;

static const stem_world *world;
static stem_attempt *attempt;
static kept *values;
static int64_t versions;
static int children;

void stem_begin_grants(const stem_world *the_world, stem_attempt *the_attempt) {
    world = the_world;
    attempt = the_attempt;
    attempt->children = stem_text_of("[]");
    children = 0;
}

static char *copied(const char *from, size_t size) {
    char *memory = malloc(size + 1);
    if (memory == NULL) abort();
    if (size > 0) memcpy(memory, from, size);
    memory[size] = '\0';
    return memory;
}

static int32_t answer(void *to, const char *from, size_t size, int32_t capacity) {
    if (size > 0 && capacity > 0) memcpy(to, from, size < (size_t)capacity ? size : (size_t)capacity);
    return (int32_t)size;
}

static bool is_listed(const char *const *names, const char *name) {
    for (; names != NULL && *names != NULL; names++) {
        size_t beginning = strlen(*names);
        bool open = beginning > 0 && (*names)[beginning - 1] == '*';
        if (open ? strncmp(*names, name, beginning - 1) == 0 : strcmp(*names, name) == 0) return true;
    }
    return false;
}

static kept *find(const char *bucket, const char *key) {
    for (kept *at = values; at != NULL; at = at->next)
        if (strcmp(at->bucket, bucket) == 0 && strcmp(at->key, key) == 0) return at;
    return NULL;
}

static int64_t put(const char *bucket, const char *key, stem_text value) {
    kept *at = find(bucket, key);
    if (at == NULL) {
        at = malloc(sizeof *at);
        if (at == NULL) abort();
        *at = (kept){values, copied(bucket, strlen(bucket)), copied(key, strlen(key)), {NULL, 0}, 0, false};
        values = at;
    }
    at->value = (stem_text){copied(value.at, value.size), value.size};
    at->there = true;
    return at->version = ++versions;
}

void stem_test_put(const char *bucket, const char *key, stem_text value) { put(bucket, key, value); }

stem_text stem_test_value(const char *bucket, const char *key) {
    const kept *at = find(bucket, key);
    return at != NULL && at->there ? at->value : (stem_text){NULL, 0};
}

int32_t stem0_children_enqueue(const char *json, int32_t size, int32_t release, void *to, int32_t capacity) {
    stem_text tasks = {json, (size_t)size}, task;
    if (!stem_json_is_valid(tasks) || !stem_json_is_array(tasks)) return STEM_INVALID;
    int count = 0;
    for (stem_text rest = tasks; stem_json_next(&rest, &task); count++) {
        const char *name = stem_json_string(stem_json_get(task, "task_name")).at;
        if (name == NULL) return STEM_INVALID;
        if (!is_listed(world->children, name)) return STEM_DENIED;
    }
    if (count > CHILDREN_OF_CALL) return STEM_INVALID;
    if (children + count > CHILDREN_OF_ATTEMPT) return STEM_QUOTA;
    size_t room = attempt->children.size + (size_t)size + (size_t)count * 40 + 3;
    char *all = malloc(room), *ids = malloc((size_t)count * 20 + 3);
    if (all == NULL || ids == NULL) abort();
    /* Without the bracket at its end, which comes last. */
    int length = snprintf(all, room, "%.*s", (int)attempt->children.size - 1, attempt->children.at);
    int told = snprintf(ids, 2, "[");
    for (stem_text rest = tasks; stem_json_next(&rest, &task);) {
        const char *when = release == STEM_ON_SUCCESS ? "on-success" : "now";
        length += snprintf(all + length, room - (size_t)length, "%s{\"release\":\"%s\",\"task\":%.*s}", children > 0 ? "," : "",
                           when, (int)task.size, task.at);
        told += snprintf(ids + told, 20, "%s\"child-%d\"", told > 1 ? "," : "", ++children);
    }
    snprintf(all + length, room - (size_t)length, "]");
    snprintf(ids + told, 2, "]");
    attempt->children = stem_text_of(all);
    return answer(to, ids, (size_t)told + 1, capacity);
}

int32_t stem0_kv_get(const char *bucket, int32_t bucket_size, const char *key, int32_t key_size, void *to, int32_t capacity,
                     void *version) {
    const char *name = copied(bucket, (size_t)bucket_size);
    if (!is_listed(world->buckets, name)) return STEM_DENIED;
    const kept *at = find(name, copied(key, (size_t)key_size));
    if (at == NULL || !at->there) return STEM_NOT_FOUND;
    for (int byte = 0; byte < 8; byte++) ((unsigned char *)version)[byte] = (unsigned char)(at->version >> (8 * byte) & 0xFF);
    return answer(to, at->value.at, at->value.size, capacity);
}

int64_t stem0_kv_put(const char *bucket, int32_t bucket_size, const char *key, int32_t key_size, const void *from, int32_t size,
                     int32_t when, int64_t version, int64_t ttl_ms) {
    const char *name = copied(bucket, (size_t)bucket_size), *word = copied(key, (size_t)key_size);
    if (ttl_ms < 0 || key_size == 0) return STEM_INVALID;
    if (!is_listed(world->buckets, name)) return STEM_DENIED;
    if (size > VALUE_BYTES) return STEM_TOO_LARGE;
    const kept *at = find(name, word);
    bool there = at != NULL && at->there;
    if (when == STEM_IF_ABSENT && there) return STEM_CONFLICT;
    if (when == STEM_IF_VERSION && (!there || at->version != version)) return STEM_CONFLICT;
    return put(name, word, (stem_text){from, (size_t)size});
}

int32_t stem0_kv_remove(const char *bucket, int32_t bucket_size, const char *key, int32_t key_size, int32_t when,
                        int64_t version) {
    const char *name = copied(bucket, (size_t)bucket_size);
    if (!is_listed(world->buckets, name)) return STEM_DENIED;
    kept *at = find(name, copied(key, (size_t)key_size));
    if (at == NULL || !at->there) return STEM_NOT_FOUND;
    if (when == STEM_IF_VERSION && at->version != version) return STEM_CONFLICT;
    at->there = false;
    return 0;
}

/* The value of a granted name; NULL where it is not granted. */
static const char *granted(const stem_named *names, const char *name, int32_t size) {
    for (; names != NULL && names->name != NULL; names++)
        if (strlen(names->name) == (size_t)size && memcmp(names->name, name, (size_t)size) == 0) return names->value;
    return NULL;
}

static int32_t tell(const stem_named *names, const char *name, int32_t size, void *to, int32_t capacity) {
    const char *value = granted(names, name, size);
    return value ? answer(to, value, strlen(value), capacity) : STEM_DENIED;
}

int32_t stem0_config_get(const char *key, int32_t size, void *to, int32_t capacity) {
    return tell(world->config, key, size, to, capacity);
}

int32_t stem0_secret_reveal(const char *name, int32_t size, void *to, int32_t capacity) {
    return tell(world->secrets, name, size, to, capacity);
}

int32_t stem0_secret_placeholder(const char *name, int32_t size, void *to, int32_t capacity) {
    if (granted(world->secrets, name, size) == NULL) return STEM_DENIED;
    char text[NAME_BYTES];
    int length = snprintf(text, sizeof text, "placeholder-of-%.*s", (int)size, name);
    return answer(to, text, length < NAME_BYTES ? (size_t)length : NAME_BYTES - 1, capacity);
}
