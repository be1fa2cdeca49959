package stem

import (
	"encoding/base64"
	"encoding/json"
	"time"
)

// What an operator grants a task in stem.toml. Without the grant a call returns ErrDenied and the task goes on; the task's log names
// the line that is missing. Test grants what [World] says. Outgoing HTTP is not among it: it is wasi:http, which only components have.

// Release says when a child comes to be.
type Release int32

// The releases.
const (
	// Now is at once, whatever becomes of this attempt.
	Now Release = 0
	// OnSuccess is with this attempt's success, and not without it.
	OnSuccess Release = 1
)

// Child is a further task. Its name is all that it needs.
type Child struct {
	TaskName string
	// Queue is where it waits; empty is where this task did.
	Queue string
	// Input is its arguments, written as JSON; [Bytes] are taken as they are.
	Input any
	// DelayMs is the time before it may start.
	DelayMs int64
	// DedupKey makes children of one task with the same key one child, over all attempts: an attempt that is repeated enqueues
	// again.
	DedupKey string
	Headers  map[string]string
}

// wireChild is a Child as the worker reads it.
type wireChild struct {
	TaskName    string            `json:"task_name"`
	Queue       string            `json:"queue,omitempty"`
	Input       any               `json:"input,omitempty"`
	InputBase64 *string           `json:"input_base64,omitempty"`
	MediaType   string            `json:"media_type,omitempty"`
	DelayMs     int64             `json:"delay_ms,omitempty"`
	DedupKey    string            `json:"dedup_key,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
}

func (c Child) wire() wireChild {
	wire := wireChild{c.TaskName, c.Queue, c.Input, nil, "", c.DelayMs, c.DedupKey, c.Headers}
	if raw, ok := c.Input.(Bytes); ok {
		text := base64.StdEncoding.EncodeToString(raw.Data)
		wire.Input, wire.InputBase64, wire.MediaType = nil, &text, raw.MediaType
		if wire.MediaType == "" {
			wire.MediaType = binaryType
		}
	}
	return wire
}

// childBytes is what an id takes at most, with its quotes and comma.
const childBytes = 131

// Enqueue enqueues further tasks, all or none, and returns their ids. Granted by name: children = ["thumb.*"]. Input that cannot be
// JSON is a fatal failure, code "invalid-child".
func (c *Context) Enqueue(release Release, children ...Child) ([]string, error) {
	wires := make([]wireChild, len(children))
	for i, child := range children {
		wires[i] = child.wire()
	}
	text, err := JSON(wires)
	if err != nil {
		return nil, Fatal("invalid-child", "%v", err)
	}
	answer := make([]byte, 2+childBytes*len(children))
	size := c.host.enqueue(text, int32(release), answer)
	if size < 0 {
		return nil, HostError(size)
	}
	var ids []string
	err = json.Unmarshal(answer[:min(int(size), len(answer))], &ids)
	return ids, err
}

// Bucket has small values that tasks share; see [Context.Bucket].
type Bucket struct {
	host host
	name string
}

// Bucket is granted by its name, to read or to write too: kv = ["thumbs", "seen:rw"].
func (c *Context) Bucket(name string) Bucket { return Bucket{c.host, name} }

// Entry is a value with its version, which grows with each change.
type Entry struct {
	Value   []byte
	Version int64
}

// Get returns a value; ErrNotFound if there is none.
func (b Bucket) Get(key string) (Entry, error) {
	var version int64
	value, err := fetch(func(to []byte) int32 { return b.host.kvGet(b.name, key, to, &version) })
	return Entry{value, version}, err
}

// Put replaces a value, at most 64 KiB, for so long; a ttl of 0 is for ever. It returns the new version.
func (b Bucket) Put(key string, value []byte, ttl time.Duration) (int64, error) {
	return b.put(key, value, 0, 0, ttl)
}

// PutIfAbsent is Put where there is no value; ErrConflict if there is one.
func (b Bucket) PutIfAbsent(key string, value []byte, ttl time.Duration) (int64, error) {
	return b.put(key, value, 1, 0, ttl)
}

// PutIfVersion is Put where the value still has this version; ErrConflict if it has not.
func (b Bucket) PutIfVersion(key string, value []byte, version int64, ttl time.Duration) (int64, error) {
	return b.put(key, value, 2, version, ttl)
}

func (b Bucket) put(key string, value []byte, when int32, version int64, ttl time.Duration) (int64, error) {
	answer := b.host.kvPut(b.name, key, value, when, version, millis(ttl))
	if answer < 0 {
		return 0, HostError(answer)
	}
	return answer, nil
}

// Remove removes a value; ErrNotFound if there is none.
func (b Bucket) Remove(key string) error {
	if answer := b.host.kvRemove(b.name, key, 0, 0); answer < 0 {
		return HostError(answer)
	}
	return nil
}

// RemoveIfVersion is Remove where the value still has this version; ErrConflict if it has not.
func (b Bucket) RemoveIfVersion(key string, version int64) error {
	if answer := b.host.kvRemove(b.name, key, 2, version); answer < 0 {
		return HostError(answer)
	}
	return nil
}

// Config returns a setting of the worker; ErrNotFound if it has none of that name. Granted by name: config = ["SIZE"].
func (c *Context) Config(key string) (string, error) {
	value, err := fetch(func(to []byte) int32 { return c.host.config(key, to) })
	return string(value), err
}

// SecretPlaceholder returns what stands for a secret in the headers of outgoing requests: for a component to send, since a task in Go
// makes none. Granted by name and host: secrets = ["API_KEY@api.example.org"].
func (c *Context) SecretPlaceholder(name string) (string, error) {
	value, err := fetch(func(to []byte) int32 { return c.host.secretPlaceholder(name, to) })
	return string(value), err
}

// SecretReveal returns a secret itself; the worker logs that it was told. Granted apart: secrets = [{ name = "DB", reveal = true }].
func (c *Context) SecretReveal(name string) ([]byte, error) {
	return fetch(func(to []byte) int32 { return c.host.secretReveal(name, to) })
}

// fetch asks again with a buffer that is large enough; the value may have grown in between.
func fetch(ask func(to []byte) int32) ([]byte, error) {
	buffer := make([]byte, usualBytes)
	for {
		size := ask(buffer)
		switch {
		case size < 0:
			return nil, HostError(size)
		case int(size) <= len(buffer):
			return buffer[:size], nil
		}
		buffer = make([]byte, size)
	}
}
