//! What is said of bytes that were refused: it goes to terminals and logs, and partly repeats what somebody else wrote.

/// Words are there, are short, and do nothing to whoever shows them. Gives them back.
#[track_caller]
pub(crate) fn told(words: &impl ToString, most: usize) -> String {
    let words = words.to_string();
    assert!(!words.is_empty(), "nothing is said");
    assert!(words.len() <= most, "{} bytes are said, at most {most}: {words:?}", words.len());
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!words.contains(hidden), "what is said holds what no terminal shows: {words:?}");
    words
}
