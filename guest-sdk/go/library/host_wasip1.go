package stem

import (
	"math"
	"os"
	"unsafe"
)

//go:wasmimport stem0 input_len
func stem0InputLen() int64

//go:wasmimport stem0 input_read
func stem0InputRead(to unsafe.Pointer, offset int64, size int32) int32

//go:wasmimport stem0 output_write
func stem0OutputWrite(from unsafe.Pointer, size int32) int32

//go:wasmimport stem0 fail
func stem0Fail(kind int32, delayMs int64, words unsafe.Pointer, size int32) int32

//go:wasmimport stem0 heartbeat
func stem0Heartbeat() int32

//go:wasmimport stem0 stop_notice
func stem0StopNotice(to unsafe.Pointer, capacity int32) int32

//go:wasmimport stem0 extend_lease
func stem0ExtendLease(ms int64) int64

//go:wasmimport stem0 progress
func stem0Progress(permille int32, message string) int32

//go:wasmimport stem0 log
func stem0Log(level int32, line string)

//go:wasmimport stem0 sleep
func stem0Sleep(ms int64) int32

//go:wasmimport stem0 time_left
func stem0TimeLeft(which int32) int64

//go:wasmimport stem0 info
func stem0Info(to unsafe.Pointer, capacity int32) int32

//go:wasmimport stem0 checkpoint_load
func stem0CheckpointLoad(to unsafe.Pointer, capacity int32) int32

//go:wasmimport stem0 checkpoint_save
func stem0CheckpointSave(from unsafe.Pointer, size int32) int32

//go:wasmimport stem0 children_enqueue
func stem0ChildrenEnqueue(from unsafe.Pointer, size int32, release int32, to unsafe.Pointer, capacity int32) int32

//go:wasmimport stem0 kv_get
func stem0KvGet(bucket, key string, to unsafe.Pointer, capacity int32, version *int64) int32

//go:wasmimport stem0 kv_put
func stem0KvPut(bucket, key string, from unsafe.Pointer, size int32, when int32, version, ttlMs int64) int64

//go:wasmimport stem0 kv_remove
func stem0KvRemove(bucket, key string, when int32, version int64) int32

//go:wasmimport stem0 config_get
func stem0ConfigGet(key string, to unsafe.Pointer, capacity int32) int32

//go:wasmimport stem0 secret_placeholder
func stem0SecretPlaceholder(name string, to unsafe.Pointer, capacity int32) int32

//go:wasmimport stem0 secret_reveal
func stem0SecretReveal(name string, to unsafe.Pointer, capacity int32) int32

type worker struct{}

func newHost() host { return worker{} }

// at is where the bytes begin; of none it is nil, which the worker takes with a size of 0.
func at(bytes []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(bytes)) }

func (worker) input() []byte {
	input := make([]byte, stem0InputLen())
	for done := 0; done < len(input); {
		read := stem0InputRead(at(input[done:]), int64(done), int32(len(input)-done))
		if read <= 0 {
			break
		}
		done += int(read)
	}
	return input
}

func (worker) mediaType() string {
	if media, ok := os.LookupEnv("STEM_MEDIA_TYPE"); ok {
		return media
	}
	return binaryType
}

func (worker) output(result []byte) int32 {
	return stem0OutputWrite(at(result), int32(min(len(result), math.MaxInt32)))
}

func (worker) fail(kind int32, delayMs int64, words []byte) int32 {
	return stem0Fail(kind, delayMs, at(words), int32(len(words)))
}

func (worker) heartbeat() int32                              { return stem0Heartbeat() }
func (worker) extendLease(ms int64) int64                    { return stem0ExtendLease(ms) }
func (worker) progress(permille int32, message string) int32 { return stem0Progress(permille, message) }
func (worker) log(level int32, line string)                  { stem0Log(level, line) }
func (worker) sleep(ms int64) int32                          { return stem0Sleep(ms) }
func (worker) timeLeft(which int32) int64                    { return stem0TimeLeft(which) }

func (worker) stopNotice(to []byte) int32 { return stem0StopNotice(at(to), int32(len(to))) }
func (worker) info(to []byte) int32       { return stem0Info(at(to), int32(len(to))) }

func (worker) loadCheckpoint(to []byte) int32 {
	return stem0CheckpointLoad(at(to), int32(len(to)))
}

func (worker) saveCheckpoint(state []byte) int32 {
	return stem0CheckpointSave(at(state), int32(len(state)))
}

func (worker) enqueue(children []byte, release int32, to []byte) int32 {
	return stem0ChildrenEnqueue(at(children), int32(len(children)), release, at(to), int32(len(to)))
}

func (worker) kvGet(bucket, key string, to []byte, version *int64) int32 {
	return stem0KvGet(bucket, key, at(to), int32(len(to)), version)
}

func (worker) kvPut(bucket, key string, value []byte, when int32, version, ttlMs int64) int64 {
	return stem0KvPut(bucket, key, at(value), int32(len(value)), when, version, ttlMs)
}

func (worker) kvRemove(bucket, key string, when int32, version int64) int32 {
	return stem0KvRemove(bucket, key, when, version)
}

func (worker) config(key string, to []byte) int32 {
	return stem0ConfigGet(key, at(to), int32(len(to)))
}

func (worker) secretPlaceholder(name string, to []byte) int32 {
	return stem0SecretPlaceholder(name, at(to), int32(len(to)))
}

func (worker) secretReveal(name string, to []byte) int32 {
	return stem0SecretReveal(name, at(to), int32(len(to)))
}
