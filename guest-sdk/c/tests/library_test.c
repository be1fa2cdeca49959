/* The library by itself: what it takes for JSON, what it reads of it, and what it writes. */
#include <stdlib.h>
#include <string.h>

#include "stem/stem_grants.h"
#include "stem/stem_test.h"

static bool valid(const char *json) { return stem_json_is_valid(stem_text_of(json)); }

static stem_text get(const char *json, const char *key) { return stem_json_get(stem_text_of(json), key); }

static void json_is_told_from_what_is_none(void) {
    static const char *const good[] = {
        "{}", " [ ] ", "null", "-0", "1.5e+3", "\"\"", "{\"a\":[1,{\"b\":true}],\"c\":\"\\u00e9\\ud83d\\ude00\"}", "\"\xc3\xa9\"",
    };
    static const char *const bad[] = {
        "", " ", "{", "[1,]", "{\"a\"}", "{\"a\":}", "{a:1}", "{\"a\":1,}", "01", "1.", ".5", "+1", "1e", "nul", "truee", "1 2",
        "\"", "\"\\x\"", "\"\\u12\"", "\"\\ud800\"", "\"\\ud800\\u0041\"", "\"\\udc00\"", "\"\n\"", "'a'", "[1 2]",
        /* No UTF-8: cut short, too long, a surrogate, beyond the last character. */
        "\"\xc3\"", "\"\xc0\xaf\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "\"\x80\"",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) STEM_CHECK_TEXT(valid(good[i]) ? good[i] : "", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) STEM_CHECK_TEXT(valid(bad[i]) ? bad[i] : "", "");
    char deep[200];
    memset(deep, '[', 100);
    memset(deep + 100, ']', 99);
    deep[199] = '\0';
    STEM_CHECK(!valid(deep + 1));
}

static void values_are_found_by_their_keys(void) {
    const char *json = "{ \"a\" : 1 , \"b\" : { \"a\" : [ 2 , 3 ] } , \"a\" : \"last\" }";
    STEM_CHECK_TEXT(stem_json_string(get(json, "a")).at, "last");
    stem_text list = stem_json_get(get(json, "b"), "a"), value;
    int64_t number = 0, sum = 0;
    while (stem_json_next(&list, &value) && stem_json_integer(value, &number)) sum += number;
    STEM_CHECK(sum == 5);
    STEM_CHECK(get(json, "c").size == 0);
    STEM_CHECK(get("[1]", "a").size == 0);
    STEM_CHECK(stem_json_get(get(json, "c"), "d").size == 0);
    STEM_CHECK(!stem_json_integer(get(json, "c"), &number));
    STEM_CHECK(!stem_json_integer(stem_text_of("1.0"), &number));
    STEM_CHECK(!stem_json_integer(stem_text_of("99999999999999999999"), &number));
    STEM_CHECK(stem_json_integer(stem_text_of("9007199254740991"), &number) && number == 9007199254740991);
    double real = 0.0;
    STEM_CHECK(stem_json_number(stem_text_of("-2.5e1"), &real) && real == -25.0);
    STEM_CHECK(!stem_json_number(stem_text_of("\"1\""), &real));
}

static void strings_go_there_and_back(void) {
    stem_text text = stem_json_string(stem_text_of("\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\u00e9\\u20ac\\ud83d\\ude00/\""));
    STEM_CHECK(text.size == 20 && memcmp(text.at, "a\"\\/\b\f\n\r\t\0\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80/", 20) == 0);
    STEM_CHECK_TEXT(stem_json_quoted(text),
                    "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0000\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80/\"");
    STEM_CHECK(stem_json_string(stem_text_of("1")).at == NULL);
    STEM_CHECK(stem_json_string(stem_text_of("\"a\" \"b\"")).at == NULL);
}

/* The task that is tried: its arguments say what to do. */
stem_end stem_task(stem_text arguments) {
    if (stem_json_get(arguments, "fail").size > 0) return stem_retryable(1500, "busy", "%s", stem_json_string(stem_json_get(arguments, "fail")).at);
    stem_text value;
    int64_t version;
    STEM_CHECK(stem_kv_get("b", "k", &value, &version) == STEM_DENIED);
    STEM_CHECK(stem_config("SIZE", &value) == STEM_DENIED);
    STEM_CHECK(stem_enqueue("[{\"task_name\":\"t\"}]", STEM_NOW, &value) == STEM_DENIED);
    STEM_CHECK(stem_enqueue("[", STEM_NOW, &value) == STEM_INVALID);
    stem_text attempt = stem_json_get(stem_info(), "attempt");
    return stem_return(attempt.at, attempt.size);
}

static void an_attempt_is_as_a_worker_would_see_it(void) {
    STEM_CHECK_TEXT(stem_test_run((stem_world){.attempt = 2}, "{}").result.at, "2");
    stem_attempt failed = stem_test_run((stem_world){0}, "{\"fail\":\"a \\\"quoted\\\" word\"}");
    STEM_CHECK_TEXT(failed.message, "a \"quoted\" word");
    STEM_CHECK_TEXT(failed.kind, "retryable");
    STEM_CHECK(failed.after_ms == 1500);
    /* Cut between two characters: 4,095 bytes and one of two. */
    char *long_one = calloc(1, 5000);
    if (long_one == NULL) abort();
    strcpy(long_one, "{\"fail\":\"");
    memset(long_one + 9, 'x', 4095);
    strcat(long_one, "\xc3\xa9\"}");
    STEM_CHECK(strlen(stem_test_run((stem_world){0}, long_one).message) == 4095);
}

int main(void) {
    json_is_told_from_what_is_none();
    values_are_found_by_their_keys();
    strings_go_there_and_back();
    an_attempt_is_as_a_worker_would_see_it();
    return stem_test_report();
}
