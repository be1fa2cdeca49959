// What a task in Go may do to itself, and what it reaches by grants; tests/tests/languages/edges.rs says what comes of it.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"os"
	"runtime"
	"strings"
	"time"

	"example.com/edges/stem"
)

type args struct {
	Op string `json:"op"`
}

func main() { stem.Run(edges) }

// must has a place for whatever is not as it must be.
type must struct{ wrong []string }

func (m *must) be(what string, holds bool) {
	if !holds {
		m.wrong = append(m.wrong, what)
	}
}

func grants(ctx *stem.Context) (any, error) {
	m := new(must)
	seen := ctx.Bucket("seen")
	_, err := seen.Get("k")
	m.be("nothing there", err == stem.ErrNotFound)
	first, err := seen.PutIfAbsent("k", []byte("one"), time.Minute)
	m.be("put", err == nil && first > 0)
	_, err = seen.PutIfAbsent("k", nil, 0)
	m.be("put twice", err == stem.ErrConflict)
	entry, err := seen.Get("k")
	m.be("get", err == nil && string(entry.Value) == "one" && entry.Version == first)
	// More than the library asks for at first.
	large := bytes.Repeat([]byte("x"), 5000)
	second, err := seen.PutIfVersion("k", large, first, 0)
	m.be("put over", err == nil && second > first)
	_, err = seen.PutIfVersion("k", large, first, 0)
	m.be("put over the old one", err == stem.ErrConflict)
	entry, err = seen.Get("k")
	m.be("get what is large", err == nil && bytes.Equal(entry.Value, large) && entry.Version == second)
	m.be("remove the old one", seen.RemoveIfVersion("k", first) == stem.ErrConflict)
	m.be("remove", seen.Remove("k") == nil)
	m.be("remove twice", seen.Remove("k") == stem.ErrNotFound)
	_, err = seen.Put("empty", nil, 0)
	m.be("put nothing", err == nil)
	entry, err = seen.Get("empty")
	m.be("get nothing", err == nil && len(entry.Value) == 0)
	_, err = ctx.Bucket("fonts").Put("k", nil, 0)
	m.be("write what is to be read", err == stem.ErrDenied)
	_, err = ctx.Bucket("other").Get("k")
	m.be("another bucket", err == stem.ErrDenied)
	_, err = ctx.Config("NONE")
	m.be("another setting", err == stem.ErrDenied)
	size, err := ctx.Config("SIZE")
	m.be("setting", err == nil)
	secret, err := ctx.SecretReveal("KEY")
	m.be("secret", err == nil && string(secret) == "hush")
	standIn, err := ctx.SecretPlaceholder("KEY")
	m.be("placeholder", err == nil && len(standIn) > 10 && !strings.Contains(standIn, "hush"))
	_, err = ctx.Enqueue(stem.Now, stem.Child{TaskName: "other"})
	m.be("another child", err == stem.ErrDenied)
	ids, err := ctx.Enqueue(stem.Now)
	m.be("no child", err == nil && len(ids) == 0)
	ids, err = ctx.Enqueue(stem.OnSuccess,
		stem.Child{TaskName: "thumb.small", Input: map[string]int{"n": 1}, DedupKey: "k", DelayMs: 1500},
		stem.Child{TaskName: "thumb.large", Input: stem.Bytes{Data: []byte("\x89PNG"), MediaType: "image/png"}})
	m.be("children", err == nil && len(ids) == 2)
	if len(m.wrong) > 0 {
		return nil, stem.Fatal("wrong", "%s", strings.Join(m.wrong, ", "))
	}
	return map[string]string{"size": size}, nil
}

func falls(depth int) int {
	var here [64]int
	here[depth%64] = depth
	return falls(depth+1) + here[depth%64]
}

// nothing is a check that finds nothing, as many are written.
func nothing() *stem.Failure { return nil }

func edges(ctx *stem.Context, args args) (any, error) {
	printed := map[string]bool{"printed": true}
	switch args.Op {
	case "grants":
		return grants(ctx)
	case "print":
		fmt.Print("a word\nand another")
		return printed, nil
	case "nothing":
		return printed, nothing()
	case "large":
		return strings.Repeat("x", 1<<20), nil
	case "exit-0":
		os.Exit(0)
	case "exit-255":
		os.Exit(255)
	case "log":
		log.Fatal("it cannot go on")
	case "crash":
		panic("the words of a panic")
	case "nil":
		var context *stem.Context
		return context.Info(), nil
	case "deep":
		return falls(0), nil
	case "asleep":
		<-make(chan int)
	case "goexit":
		runtime.Goexit()
	case "elsewhere":
		go panic("in another goroutine")
		<-make(chan int)
	}
	return nil, errors.New("unknown op")
}
