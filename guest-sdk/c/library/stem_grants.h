/* What an operator grants a task in stem.toml. Without the grant a call answers STEM_DENIED and the task goes on; the task's log
 * names the line that is missing. Local tests grant nothing: there each of these answers STEM_DENIED too. */
#ifndef STEM_GRANTS_H
#define STEM_GRANTS_H

#include "stem.h"

/* When children come to be: at once, or with this attempt's success. */
enum { STEM_NOW = 0, STEM_ON_SUCCESS = 1 };
/* Enqueues the tasks of a JSON array, each an object: task_name, and what may be absent, queue, input (any JSON), delay_ms,
 * dedup_key, headers. Their ids come back as a JSON array. Returns 0 or an error. Granted by name: children = ["thumb.*"]. */
int32_t stem_enqueue(const char *tasks, int release, stem_text *ids);

/* Small values that tasks share. Granted by bucket, to read or to write too: kv = ["thumbs", "seen:rw"].
 * A value with its version, in memory of its own with a zero after it. Returns 0, STEM_NOT_FOUND or another error. */
int32_t stem_kv_get(const char *bucket, const char *key, stem_text *value, int64_t *version);
/* In any case, only if there is no value, only if it still has this version; else STEM_CONFLICT. */
enum { STEM_ALWAYS = 0, STEM_IF_ABSENT = 1, STEM_IF_VERSION = 2 };
/* Replaces a value, at most 64 KiB, for so long; 0 is for ever. Returns its version or an error. */
int64_t stem_kv_put(const char *bucket, const char *key, stem_text value, int when, int64_t version, int64_t ttl_ms);
/* Returns 0 or an error. */
int32_t stem_kv_remove(const char *bucket, const char *key, int when, int64_t version);

/* A setting of the worker, as above. Granted by name: config = ["SIZE"]. */
int32_t stem_config(const char *key, stem_text *value);
/* What stands for a secret in outgoing requests, and a secret itself, as above. Granted by name: secrets = ["API_KEY@api.example.org"]. */
int32_t stem_secret_placeholder(const char *name, stem_text *value);
int32_t stem_secret_reveal(const char *name, stem_text *value);

#endif
