/* The library by itself: what it takes for JSON, what it reads of it, and what it writes. */
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

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
    /* What is refused changes nothing, and what is long is read. */
    STEM_CHECK(!stem_json_number(stem_text_of("1e999"), &real) && real == -25.0);
    STEM_CHECK(!stem_json_integer(stem_text_of("99999999999999999999"), &number) && number == 9007199254740991);
    STEM_CHECK(stem_json_number(stem_text_of("0.50000000000000000000000000000000000000000000000000000000000000000000000"), &real));
    STEM_CHECK(real == 0.5);
    STEM_CHECK(stem_json_is_array(stem_text_of(" []")) && !stem_json_is_array(stem_text_of("{}")) && !stem_json_is_array(get("{}", "a")));
}

static void strings_go_there_and_back(void) {
    stem_text text = stem_json_string(stem_text_of("\"a\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\u00e9\\u20ac\\ud83d\\ude00/\""));
    STEM_CHECK(text.size == 20 && memcmp(text.at, "a\"\\/\b\f\n\r\t\0\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80/", 20) == 0);
    STEM_CHECK_TEXT(stem_json_quoted(text),
                    "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0000\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80/\"");
    STEM_CHECK(stem_json_string(stem_text_of("1")).at == NULL);
    STEM_CHECK(stem_json_string(stem_text_of("\"a\" \"b\"")).at == NULL);
    STEM_CHECK_TEXT(stem_json_quoted(stem_text_of("caf\xe9 \xe2\x82")), "\"caf\xef\xbf\xbd \xef\xbf\xbd\xef\xbf\xbd\"");
    STEM_CHECK_TEXT(stem_utf8(stem_text_of("\xff\xc3\xa9")).at, "\xef\xbf\xbd\xc3\xa9");
    stem_text good = stem_text_of("\xc3\xa9");
    STEM_CHECK(stem_utf8(good).at == good.at);
}

/* The task that is tried: its arguments say what to do. */
stem_end stem_task(stem_text arguments) {
    if (stem_json_get(arguments, "fail").size > 0) return stem_retryable(1500, "busy", "%s", stem_json_string(stem_json_get(arguments, "fail")).at);
    /* As a program prints what it got from elsewhere. */
    if (stem_json_get(arguments, "latin").size > 0) {
        char code[200];
        memset(code, '\x01', sizeof code - 1);
        code[sizeof code - 1] = '\0';
        return stem_retryable(2500, code, "caf\xe9");
    }
    if (stem_json_get(arguments, "steps").size > 0) {
        for (int step = 0; step < 10; step++)
            if (!stem_progress(-1.0, "caf\xe9")) return stem_stopped();
    }
    if (stem_json_get(arguments, "nothing").size > 0) return stem_return(NULL, 0);
    if (stem_json_get(arguments, "unwritable").size > 0) return stem_returnf("%lc", (wint_t)0x110000);
    if (stem_json_get(arguments, "type").size > 0) return stem_returnf("%s", stem_media_type());
    stem_text value;
    int64_t version;
    if (stem_json_get(arguments, "grants").size > 0) {
        static const char tasks[] = "[{\"task_name\":\"thumb.small\",\"input\":7},{\"task_name\":\"thumb.large\"}]";
        STEM_CHECK(stem_enqueue("[{\"task_name\":\"thumb.a\"},{\"task_name\":\"other\"}]", STEM_NOW, &value) == STEM_DENIED);
        STEM_CHECK(stem_enqueue(tasks, STEM_ON_SUCCESS, &value) == 0);
        STEM_CHECK_TEXT(value.at, "[\"child-1\",\"child-2\"]");
        STEM_CHECK(stem_enqueue("[{\"task_name\":\"thumb.a\"}]", STEM_NOW, &value) == 0);
        STEM_CHECK_TEXT(value.at, "[\"child-3\"]");
        STEM_CHECK(stem_enqueue("[]", STEM_NOW, &value) == 0);
        STEM_CHECK_TEXT(value.at, "[]");
        STEM_CHECK(stem_kv_get("seen", "k", &value, &version) == 0);
        STEM_CHECK_TEXT(value.at, "one");
        STEM_CHECK(stem_kv_put("seen", "k", value, STEM_IF_ABSENT, 0, 0) == STEM_CONFLICT);
        STEM_CHECK(stem_kv_put("seen", "k", stem_text_of("two"), STEM_IF_VERSION, version, 0) > version);
        STEM_CHECK(stem_kv_remove("seen", "k", STEM_IF_VERSION, version) == STEM_CONFLICT);
        STEM_CHECK(stem_kv_put("seen", "gone", value, STEM_ALWAYS, 0, 0) > 0);
        STEM_CHECK(stem_kv_remove("seen", "gone", STEM_ALWAYS, 0) == 0);
        STEM_CHECK(stem_kv_remove("seen", "gone", STEM_ALWAYS, 0) == STEM_NOT_FOUND);
        STEM_CHECK(stem_kv_get("other", "k", &value, &version) == STEM_DENIED);
        STEM_CHECK(stem_secret_reveal("KEY", &value) == 0);
        STEM_CHECK_TEXT(value.at, "hush");
        STEM_CHECK(stem_secret_placeholder("KEY", &value) == 0);
        STEM_CHECK_TEXT(value.at, "placeholder-of-KEY");
        STEM_CHECK(stem_secret_placeholder("KEYS", &value) == STEM_DENIED);
        STEM_CHECK(stem_config("SIZE", &value) == 0);
        return stem_return(value.at, value.size);
    }
    STEM_CHECK(stem_kv_get("b", "k", &value, &version) == STEM_DENIED);
    STEM_CHECK(stem_config("SIZE", &value) == STEM_DENIED);
    STEM_CHECK(stem_enqueue("[{\"task_name\":\"t\"}]", STEM_NOW, &value) == STEM_DENIED);
    STEM_CHECK(stem_enqueue("[", STEM_NOW, &value) == STEM_INVALID);
    stem_text attempt = stem_json_get(stem_info(), "attempt");
    return stem_return(attempt.at, attempt.size);
}

static void an_attempt_is_as_a_worker_would_see_it(void) {
    STEM_CHECK_TEXT(stem_test_run((stem_world){.attempt = 2}, "{}").result.at, "2");
    STEM_CHECK_TEXT(stem_test_run((stem_world){.attempt = 3}, "{}").result.at, "3");
    STEM_CHECK_TEXT(stem_test_run((stem_world){0}, "{\"type\":1}").result.at, "application/json");
    STEM_CHECK_TEXT(stem_test_run((stem_world){.media_type = "text/plain"}, "{\"type\":1}").result.at, "text/plain");
    STEM_CHECK(stem_test_run((stem_world){0}, "{\"nothing\":1}").result.size == 0);
    STEM_CHECK_TEXT(stem_test_run((stem_world){0}, "{\"unwritable\":1}").code, "invalid-result");
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

static void words_that_are_not_utf8_cost_neither_the_delay_nor_a_stop_notice(void) {
    stem_attempt failed = stem_test_run((stem_world){0}, "{\"latin\":1}");
    STEM_CHECK_TEXT(failed.kind, "retryable");
    STEM_CHECK_TEXT(failed.message, "caf\xef\xbf\xbd");
    STEM_CHECK(failed.after_ms == 2500 && strlen(failed.code) == 64);
    stem_attempt stopped = stem_test_run((stem_world){.stop_at = 3}, "{\"steps\":1}");
    STEM_CHECK(stopped.beats == 3);
    STEM_CHECK_TEXT(stopped.progress, "caf\xef\xbf\xbd");
}

static void a_stop_notice_says_which_it_is(void) {
    static const struct {
        const char *code, *kind;
    } notices[] = {
        {"worker-drain", "retryable"}, {"worker-stop", "retryable"}, {"soft-time-limit", "retryable"},
        {"revoked", "cancelled"},      {"tea-time", "cancelled"},
    };
    for (size_t i = 0; i < sizeof notices / sizeof *notices; i++) {
        stem_world world = {.stop_at = 1, .stop_code = notices[i].code, .stop_message = "because"};
        stem_attempt stopped = stem_test_run(world, "{\"steps\":1}");
        STEM_CHECK_TEXT(stopped.kind, notices[i].kind);
        STEM_CHECK_TEXT(stopped.code, notices[i].code);
        STEM_CHECK_TEXT(stopped.message, "because");
    }
    stem_attempt stopped = stem_test_run((stem_world){.stop_at = 1}, "{\"steps\":1}");
    STEM_CHECK_TEXT(stopped.code, "worker-drain");
    STEM_CHECK_TEXT(stopped.message, "asked to stop");
    /* Longer than what is asked with first. */
    char *words = calloc(1, 1001);
    if (words == NULL) abort();
    memset(words, 'x', 1000);
    stem_world world = {.stop_at = 1, .stop_message = words, .stop_grace_ms = 1500};
    STEM_CHECK(strlen(stem_test_run(world, "{\"steps\":1}").message) == 1000);
    stem_notice notice = {NULL, NULL, 0};
    STEM_CHECK(stem_stop_requested(&notice) && stem_stop_requested(NULL) && notice.grace_ms == 1500);
    stem_test_run((stem_world){0}, "{}");
    STEM_CHECK(!stem_stop_requested(&notice) && !stem_stop_requested(NULL));
}

static void what_is_granted_is_there(void) {
    static const char *const children[] = {"thumb.*", NULL}, *const buckets[] = {"seen", NULL};
    static const stem_named config[] = {{"SIZE", "800"}, {NULL, NULL}}, secrets[] = {{"KEY", "hush"}, {NULL, NULL}};
    stem_test_put("seen", "k", stem_text_of("one"));
    stem_world world = {.children = children, .buckets = buckets, .config = config, .secrets = secrets};
    stem_attempt attempt = stem_test_run(world, "{\"grants\":1}");
    STEM_CHECK_TEXT(attempt.result.at, "800");
    STEM_CHECK_TEXT(attempt.children.at,
                    "[{\"release\":\"on-success\",\"task\":{\"task_name\":\"thumb.small\",\"input\":7}},"
                    "{\"release\":\"on-success\",\"task\":{\"task_name\":\"thumb.large\"}},"
                    "{\"release\":\"now\",\"task\":{\"task_name\":\"thumb.a\"}}]");
    STEM_CHECK_TEXT(stem_test_value("seen", "k").at, "two");
    STEM_CHECK(stem_test_value("seen", "gone").at == NULL);
    STEM_CHECK_TEXT(stem_test_run((stem_world){0}, "{}").children.at, "[]");
}

int main(void) {
    json_is_told_from_what_is_none();
    values_are_found_by_their_keys();
    strings_go_there_and_back();
    an_attempt_is_as_a_worker_would_see_it();
    words_that_are_not_utf8_cost_neither_the_delay_nor_a_stop_notice();
    a_stop_notice_says_which_it_is();
    what_is_granted_is_there();
    return stem_test_report();
}
