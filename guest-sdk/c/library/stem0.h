/* The functions that a worker offers to core modules, as they are: see host-abi/README.md of Stem. In WebAssembly they are
 * imports; in a native build stem_test.c stands in for the worker. Tasks use stem.h, which is built on these. */
#ifndef STEM0_H
#define STEM0_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __wasm__
#define STEM0(name) __attribute__((import_module("stem0"), import_name(#name)))
#else
#define STEM0(name)
#endif

STEM0(input_len) int64_t stem0_input_len(void);
STEM0(input_read) int32_t stem0_input_read(void *to, int64_t offset, int32_t size);
STEM0(output_write) int32_t stem0_output_write(const void *from, int32_t size);
STEM0(fail) int32_t stem0_fail(int32_t kind, int64_t delay_ms, const char *json, int32_t size);
STEM0(heartbeat) int32_t stem0_heartbeat(void);
STEM0(stop_notice) int32_t stem0_stop_notice(void *to, int32_t capacity);
STEM0(extend_lease) int64_t stem0_extend_lease(int64_t ms);
STEM0(progress) int32_t stem0_progress(int32_t permille, const char *message, int32_t size);
STEM0(log) void stem0_log(int32_t level, const char *line, int32_t size);
STEM0(sleep) int32_t stem0_sleep(int64_t ms);
STEM0(time_left) int64_t stem0_time_left(int32_t which);
STEM0(info) int32_t stem0_info(void *to, int32_t capacity);
STEM0(checkpoint_load) int32_t stem0_checkpoint_load(void *to, int32_t capacity);
STEM0(checkpoint_save) int32_t stem0_checkpoint_save(const void *from, int32_t size);
STEM0(children_enqueue)
int32_t stem0_children_enqueue(const char *json, int32_t size, int32_t release, void *to, int32_t capacity);
STEM0(kv_get)
int32_t stem0_kv_get(const char *bucket, int32_t bucket_size, const char *key, int32_t key_size, void *to, int32_t capacity,
                     void *version);
STEM0(kv_put)
int64_t stem0_kv_put(const char *bucket, int32_t bucket_size, const char *key, int32_t key_size, const void *from, int32_t size,
                     int32_t when, int64_t version, int64_t ttl_ms);
STEM0(kv_remove)
int32_t stem0_kv_remove(const char *bucket, int32_t bucket_size, const char *key, int32_t key_size, int32_t when,
                        int64_t version);
STEM0(config_get) int32_t stem0_config_get(const char *key, int32_t key_size, void *to, int32_t capacity);
STEM0(secret_placeholder) int32_t stem0_secret_placeholder(const char *name, int32_t name_size, void *to, int32_t capacity);
STEM0(secret_reveal) int32_t stem0_secret_reveal(const char *name, int32_t name_size, void *to, int32_t capacity);

#ifdef __cplusplus
}
#endif

#endif
