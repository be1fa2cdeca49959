//! Making hostile text safe to show: bounded, and without control characters.

/// Copies at most `limit` bytes of `text`, with control characters (terminal escapes, line breaks, NUL) and the
/// invisible direction marks written as escapes. Cut text ends in `…`. The result is at most `limit` bytes plus one escape.
pub fn printable(text: &str, limit: usize) -> String {
    let mut safe = String::with_capacity(text.len().min(limit) + 4);
    for character in text.chars() {
        if safe.len() + character.len_utf8() > limit {
            safe.push('…');
            break;
        }
        let direction = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || direction {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn control_characters_are_escaped_and_length_is_bounded() {
        assert_eq!(printable("a\x1b[31mb\nc\0", 100), "a\\u{1b}[31mb\\nc\\u{0}");
        assert_eq!(printable("\u{202e}x", 100), "\\u{202e}x");
        assert_eq!(printable("äöü", 4), "äö…");
        assert!(printable(&"\n".repeat(1 << 20), 64).len() <= 64 + 10);
    }
}
