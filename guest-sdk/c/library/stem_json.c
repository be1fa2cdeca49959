/* Just enough of JSON for arguments, checkpoints and results: a strict check, and reading by key without a tree. */
#include <errno.h>
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "stem.h"

/* Deeper text is refused, so that no input uses up the stack. */
enum { DEPTH = 64 };

typedef struct {
    const char *at;
    const char *end;
} cursor;

static const stem_text nothing = {NULL, 0};

static void skip_space(cursor *c) {
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n' || *c->at == '\r')) c->at++;
}

static bool is(const cursor *c, char wanted) { return c->at < c->end && *c->at == wanted; }

static bool eat(cursor *c, char wanted) {
    if (!is(c, wanted)) return false;
    c->at++;
    return true;
}

static bool is_digit(const cursor *c) { return c->at < c->end && *c->at >= '0' && *c->at <= '9'; }

static bool digits(cursor *c) {
    if (!is_digit(c)) return false;
    while (is_digit(c)) c->at++;
    return true;
}

static int hex(char digit) {
    if (digit >= '0' && digit <= '9') return digit - '0';
    if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
    if (digit >= 'A' && digit <= 'F') return digit - 'A' + 10;
    return -1;
}

/* Four hexadecimal digits; -1 if they are not. */
static int32_t unit(cursor *c) {
    int32_t value = 0;
    if (c->end - c->at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        int digit = hex(*c->at++);
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* The size of the character of UTF-8 that begins here, written the shortest way and no surrogate; 0 if none does. */
static size_t character(const char *at, size_t left) {
    const unsigned char *byte = (const unsigned char *)at;
    size_t size = byte[0] < 0x80 ? 1 : byte[0] >= 0xF0 ? 4 : byte[0] >= 0xE0 ? 3 : 2;
    if (size > left || byte[0] > 0xF4 || (byte[0] >= 0x80 && byte[0] < 0xC2)) return 0;
    for (size_t i = 1; i < size; i++)
        if ((byte[i] & 0xC0) != 0x80) return 0;
    if ((byte[0] == 0xE0 && byte[1] < 0xA0) || (byte[0] == 0xED && byte[1] > 0x9F)) return 0;
    if ((byte[0] == 0xF0 && byte[1] < 0x90) || (byte[0] == 0xF4 && byte[1] > 0x8F)) return 0;
    return size;
}

static bool string(cursor *c) {
    if (!eat(c, '"')) return false;
    while (c->at < c->end) {
        unsigned char byte = (unsigned char)*c->at;
        if (byte == '"') {
            c->at++;
            return true;
        }
        if (byte < 0x20) return false;
        if (byte != '\\') {
            size_t size = character(c->at, (size_t)(c->end - c->at));
            if (size == 0) return false;
            c->at += size;
            continue;
        }
        c->at++;
        if (c->at == c->end) return false;
        char escape = *c->at++;
        if (escape == 'u') {
            int32_t first = unit(c);
            if (first < 0 || (first >= 0xDC00 && first <= 0xDFFF)) return false;
            if (first >= 0xD800 && first <= 0xDBFF) {
                if (!eat(c, '\\') || !eat(c, 'u')) return false;
                int32_t second = unit(c);
                if (second < 0xDC00 || second > 0xDFFF) return false;
            }
        } else if (escape == '\0' || strchr("\"\\/bfnrt", escape) == NULL) {
            return false;
        }
    }
    return false;
}

static bool number(cursor *c) {
    eat(c, '-');
    if (!eat(c, '0') && !digits(c)) return false;
    if (eat(c, '.') && !digits(c)) return false;
    if (eat(c, 'e') || eat(c, 'E')) {
        if (!eat(c, '+')) eat(c, '-');
        return digits(c);
    }
    return true;
}

static bool word(cursor *c, const char *wanted) {
    size_t size = strlen(wanted);
    if ((size_t)(c->end - c->at) < size || memcmp(c->at, wanted, size) != 0) return false;
    c->at += size;
    return true;
}

static bool value(cursor *c, int depth);

/* What stands between the brackets of an object or an array. */
static bool members(cursor *c, char close, int depth) {
    c->at++;
    skip_space(c);
    if (eat(c, close)) return true;
    for (;;) {
        skip_space(c);
        if (close == '}') {
            if (!string(c)) return false;
            skip_space(c);
            if (!eat(c, ':')) return false;
        }
        if (!value(c, depth + 1)) return false;
        if (eat(c, close)) return true;
        if (!eat(c, ',')) return false;
    }
}

/* One value with the space around it. */
static bool value(cursor *c, int depth) {
    skip_space(c);
    if (c->at == c->end || depth > DEPTH) return false;
    bool good;
    switch (*c->at) {
        case '{': good = members(c, '}', depth); break;
        case '[': good = members(c, ']', depth); break;
        case '"': good = string(c); break;
        case 't': good = word(c, "true"); break;
        case 'f': good = word(c, "false"); break;
        case 'n': good = word(c, "null"); break;
        default: good = number(c);
    }
    skip_space(c);
    return good;
}

static stem_text trimmed(const char *from, const char *to) {
    while (to > from && strchr(" \t\n\r", to[-1]) != NULL) to--;
    return (stem_text){from, (size_t)(to - from)};
}

static cursor over(stem_text text) {
    cursor c = {text.at, text.at + text.size};
    if (text.at == NULL) c.end = c.at = "";
    skip_space(&c);
    return c;
}

bool stem_json_is_valid(stem_text json) {
    cursor c = over(json);
    return value(&c, 0) && c.at == c.end;
}

bool stem_json_is_object(stem_text json) {
    cursor c = over(json);
    return is(&c, '{');
}

bool stem_json_is_array(stem_text json) {
    cursor c = over(json);
    return is(&c, '[');
}

stem_text stem_json_get(stem_text object, const char *key) {
    cursor c = over(object);
    stem_text found = nothing;
    if (!eat(&c, '{')) return nothing;
    size_t size = strlen(key);
    for (skip_space(&c); is(&c, '"'); skip_space(&c)) {
        const char *name = c.at + 1;
        if (!string(&c)) return nothing;
        size_t length = (size_t)(c.at - 1 - name);
        skip_space(&c);
        if (!eat(&c, ':')) return nothing;
        skip_space(&c);
        const char *from = c.at;
        if (!value(&c, 1)) return nothing;
        if (length == size && memcmp(name, key, size) == 0) found = trimmed(from, c.at);
        if (!eat(&c, ',')) break;
    }
    return found;
}

bool stem_json_next(stem_text *array, stem_text *item) {
    cursor c = over(*array);
    if (!eat(&c, '[') && !eat(&c, ',')) return false;
    skip_space(&c);
    const char *from = c.at;
    if (!value(&c, 1)) return false;
    *item = trimmed(from, c.at);
    *array = (stem_text){c.at, (size_t)(c.end - c.at)};
    return true;
}

/* The whole text is one number. */
static bool is_number(stem_text text) {
    cursor c = over(text);
    return text.size > 0 && number(&c) && c.at == c.end;
}

bool stem_json_number(stem_text text, double *to) {
    if (!is_number(text)) return false;
    char *copy = malloc(text.size + 1);
    if (copy == NULL) abort();
    memcpy(copy, text.at, text.size);
    copy[text.size] = '\0';
    double number = strtod(copy, NULL);
    free(copy);
    if (number > DBL_MAX || number < -DBL_MAX) return false;
    *to = number;
    return true;
}

bool stem_json_integer(stem_text text, int64_t *to) {
    char copy[24];
    if (!is_number(text) || text.size >= sizeof copy) return false;
    memcpy(copy, text.at, text.size);
    copy[text.size] = '\0';
    if (strpbrk(copy, ".eE") != NULL) return false;
    errno = 0;
    long long number = strtoll(copy, NULL, 10);
    if (errno != 0) return false;
    *to = number;
    return true;
}

static char *put(char *to, uint32_t code) {
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xC0 | code >> 6);
        *to++ = (char)(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        *to++ = (char)(0xE0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 0x3F));
        *to++ = (char)(0x80 | (code & 0x3F));
    } else {
        *to++ = (char)(0xF0 | code >> 18);
        *to++ = (char)(0x80 | (code >> 12 & 0x3F));
        *to++ = (char)(0x80 | (code >> 6 & 0x3F));
        *to++ = (char)(0x80 | (code & 0x3F));
    }
    return to;
}

stem_text stem_json_string(stem_text text) {
    cursor c = over(text);
    if (!string(&c) || c.at != c.end) return nothing;
    /* Unescaped it is never longer. */
    char *memory = malloc(text.size + 1), *to = memory;
    if (memory == NULL) abort();
    c = over(text);
    for (c.at++, c.end--; c.at < c.end;) {
        if (*c.at != '\\') {
            *to++ = *c.at++;
            continue;
        }
        c.at++;
        char escape = *c.at++;
        static const char from[] = "bfnrt", into[] = "\b\f\n\r\t";
        const char *found = strchr(from, escape);
        if (escape == 'u') {
            uint32_t code = (uint32_t)unit(&c);
            if (code >= 0xD800 && code <= 0xDBFF) {
                c.at += 2;
                code = 0x10000 + ((code - 0xD800) << 10) + ((uint32_t)unit(&c) - 0xDC00);
            }
            to = put(to, code);
        } else {
            *to++ = found ? into[found - from] : escape;
        }
    }
    *to = '\0';
    return (stem_text){memory, (size_t)(to - memory)};
}

/* What stands for a byte that is not UTF-8. */
static const char replacement[] = "\xef\xbf\xbd";

stem_text stem_utf8(stem_text text) {
    size_t at = 0, size;
    while (at < text.size && (size = character(text.at + at, text.size - at)) > 0) at += size;
    if (at == text.size) return text;
    char *memory = malloc(text.size * 3 + 1), *to = memory;
    if (memory == NULL) abort();
    for (at = 0; at < text.size; at += size) {
        size = character(text.at + at, text.size - at);
        memcpy(to, size > 0 ? text.at + at : replacement, size > 0 ? size : 3);
        to += size > 0 ? size : 3;
        if (size == 0) size = 1;
    }
    *to = '\0';
    return (stem_text){memory, (size_t)(to - memory)};
}

const char *stem_json_quoted(stem_text text) {
    static const char digit[] = "0123456789abcdef", from[] = "\"\\\b\f\n\r\t", into[] = "\"\\bfnrt";
    char *memory = malloc(text.size * 6 + 3), *to = memory;
    if (memory == NULL) abort();
    *to++ = '"';
    for (size_t i = 0, size; i < text.size; i += size) {
        char byte = text.at[i];
        size = character(text.at + i, text.size - i);
        const char *found = byte ? strchr(from, byte) : NULL;
        if (found) {
            *to++ = '\\';
            *to++ = into[found - from];
        } else if ((unsigned char)byte < 0x20) {
            memcpy(to, "\\u00", 4);
            to += 4;
            *to++ = digit[byte >> 4];
            *to++ = digit[byte & 15];
        } else if (size == 0) {
            memcpy(to, replacement, 3);
            to += 3;
            size = 1;
        } else {
            memcpy(to, text.at + i, size);
            to += size;
        }
    }
    *to++ = '"';
    *to = '\0';
    return memory;
}
