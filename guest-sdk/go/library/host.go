package stem

// host is the worker: its functions for core modules as they are, see host-abi/README.md of Stem. Those that fill `to` return the
// full size of what there is.
type host interface {
	input() []byte
	mediaType() string
	output(result []byte) int32
	fail(kind int32, delayMs int64, words []byte) int32
	heartbeat() int32
	stopNotice(to []byte) int32
	extendLease(ms int64) int64
	progress(permille int32, message string) int32
	log(level int32, line string)
	sleep(ms int64) int32
	timeLeft(which int32) int64
	info(to []byte) int32
	loadCheckpoint(to []byte) int32
	saveCheckpoint(state []byte) int32
	enqueue(children []byte, release int32, to []byte) int32
	kvGet(bucket, key string, to []byte, version *int64) int32
	kvPut(bucket, key string, value []byte, when int32, version, ttlMs int64) int64
	kvRemove(bucket, key string, when int32, version int64) int32
	config(key string, to []byte) int32
	secretPlaceholder(name string, to []byte) int32
	secretReveal(name string, to []byte) int32
}
