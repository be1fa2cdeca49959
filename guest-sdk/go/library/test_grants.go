//go:build !wasip1

package stem

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
)

// Grants are what a tested attempt is granted; whatever is not here is denied.
type Grants struct {
	// Children are the names of tasks that it may enqueue, or beginnings of names with a * after them.
	Children []string
	// Buckets are those that it may read and write, by name, with the values in them.
	Buckets map[string]map[string][]byte
	// Config are settings, by name.
	Config map[string]string
	// Secrets are those that it may both reveal and send, by name.
	Secrets map[string]string
}

// Enqueued is a child that a tested attempt has enqueued.
type Enqueued struct {
	TaskName string
	Queue    string
	// Input is its arguments with their media type.
	Input    Bytes
	DelayMs  int64
	DedupKey string
	Headers  map[string]string
	// Release says when it comes to be: OnSuccess only if the attempt has succeeded.
	Release Release
}

const (
	childrenOfCall    = 100
	childrenOfAttempt = 1000
	bucketValueBytes  = 64 << 10
)

// begin copies the values, so that an attempt does not change its World.
func (h *testHost) begin() {
	h.done.Buckets = map[string]map[string]Entry{}
	for bucket, values := range h.world.Grants.Buckets {
		h.done.Buckets[bucket] = map[string]Entry{}
		for key, value := range values {
			h.versions++
			h.done.Buckets[bucket][key] = Entry{bytes.Clone(value), h.versions}
		}
	}
}

func (h *testHost) enqueue(children []byte, release int32, to []byte) int32 {
	var asked []struct {
		wireChild
		Input json.RawMessage `json:"input"`
	}
	if json.Unmarshal(children, &asked) != nil || len(asked) > childrenOfCall {
		return int32(ErrInvalid)
	}
	enqueued, ids := []Enqueued{}, []string{}
	for _, child := range asked {
		if !h.mayEnqueue(child.TaskName) {
			return int32(ErrDenied)
		}
		input := Bytes{Data: child.Input, MediaType: jsonType}
		if child.InputBase64 != nil {
			data, err := base64.StdEncoding.DecodeString(*child.InputBase64)
			if err != nil {
				return int32(ErrInvalid)
			}
			input = Bytes{Data: data, MediaType: child.MediaType}
		} else if child.Input == nil {
			input.Data = []byte("null")
		}
		if child.DelayMs < 0 {
			return int32(ErrInvalid)
		}
		enqueued = append(enqueued, Enqueued{
			child.TaskName, child.Queue, input, child.DelayMs, child.DedupKey, child.Headers, Release(release),
		})
		ids = append(ids, fmt.Sprintf("child-%d", len(h.done.Children)+len(enqueued)))
	}
	if len(h.done.Children)+len(enqueued) > childrenOfAttempt {
		return int32(ErrQuota)
	}
	h.done.Children = append(h.done.Children, enqueued...)
	return answer(to, asJSON(ids))
}

func (h *testHost) mayEnqueue(name string) bool {
	for _, pattern := range h.world.Grants.Children {
		beginning, open := strings.CutSuffix(pattern, "*")
		if name == pattern || open && strings.HasPrefix(name, beginning) {
			return true
		}
	}
	return false
}

func (h *testHost) kvGet(bucket, key string, to []byte, version *int64) int32 {
	values, granted := h.done.Buckets[bucket]
	if !granted {
		return int32(ErrDenied)
	}
	entry, there := values[key]
	if !there {
		return int32(ErrNotFound)
	}
	*version = entry.Version
	return answer(to, entry.Value)
}

func (h *testHost) kvPut(bucket, key string, value []byte, when int32, version, _ int64) int64 {
	values, granted := h.done.Buckets[bucket]
	switch entry, there := values[key]; {
	case !granted:
		return int64(ErrDenied)
	case key == "":
		return int64(ErrInvalid)
	case len(value) > bucketValueBytes:
		return int64(ErrTooLarge)
	case when == 1 && there, when == 2 && (!there || entry.Version != version):
		return int64(ErrConflict)
	}
	h.versions++
	values[key] = Entry{bytes.Clone(value), h.versions}
	return h.versions
}

func (h *testHost) kvRemove(bucket, key string, when int32, version int64) int32 {
	values, granted := h.done.Buckets[bucket]
	switch entry, there := values[key]; {
	case !granted:
		return int32(ErrDenied)
	case !there:
		return int32(ErrNotFound)
	case when == 2 && entry.Version != version:
		return int32(ErrConflict)
	}
	delete(values, key)
	return 0
}

func (h *testHost) config(key string, to []byte) int32 {
	return named(h.world.Grants.Config, key, to)
}

func (h *testHost) secretPlaceholder(name string, to []byte) int32 {
	if refused := h.secretReveal(name, nil); refused < 0 {
		return refused
	}
	return answer(to, []byte("placeholder-of-"+name))
}

func (h *testHost) secretReveal(name string, to []byte) int32 {
	return named(h.world.Grants.Secrets, name, to)
}

func named(granted map[string]string, name string, to []byte) int32 {
	value, ok := granted[name]
	if !ok {
		return int32(ErrDenied)
	}
	return answer(to, []byte(value))
}
