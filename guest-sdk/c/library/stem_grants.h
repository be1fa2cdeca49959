/* What an operator grants a task in stem.toml. Without the grant a call answers STEM_DENIED and the task goes on; the task's log
 * names the line that is missing. Local tests grant what their stem_world says.
 *
 * Outgoing HTTP is not among them: it is wasi:http, which only components have. */
#ifndef STEM_GRANTS_H
#define STEM_GRANTS_H

#include "stem.h"

#ifdef __cplusplus
extern "C" {
#endif

/* When children come to be: at once, or with this attempt's success. */
enum { STEM_NOW = 0, STEM_ON_SUCCESS = 1 };
/* Enqueues the tasks of a JSON array, all or none, each an object: task_name, and what may be absent, queue, input (any JSON) or
 * input_base64 with a media_type, delay_ms, dedup_key, headers (an object of texts). Their ids come back as a JSON array, in
 * memory of its own with a zero after it. Returns 0 or an error. An attempt that is repeated enqueues again: with a dedup_key a
 * child comes to be once. Granted by name: children = ["thumb.*"]. */
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
/* A secret itself, as above; the worker logs that it was told. Granted by name: secrets = [{ name = "DB", reveal = true }]. */
int32_t stem_secret_reveal(const char *name, stem_text *value);
/* What stands for a secret in the headers of outgoing requests, as above: for a component to send, since a task in C makes none.
 * Granted by name and host: secrets = ["API_KEY@api.example.org"]. */
int32_t stem_secret_placeholder(const char *name, stem_text *value);

#ifdef __cplusplus
}
#endif

#endif
