//! The counting.

use serde::Serialize;

/// What there is in a text.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Counts {
    /// Runs of characters that are not white space.
    words: usize,
    /// Line ends, and one more if the text does not end with one.
    lines: usize,
    /// Unicode scalar values.
    characters: usize,
    /// The word of most characters, the first of several.
    longest: String,
}

pub(crate) fn count(text: &str) -> Counts {
    let longest = text
        .split_whitespace()
        .map(|word| (word.chars().count(), word))
        .reduce(|longest, word| if word.0 > longest.0 { word } else { longest });
    Counts {
        words: text.split_whitespace().count(),
        lines: text.lines().count(),
        characters: text.chars().count(),
        longest: longest.map_or_else(String::new, |(_, word)| word.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, words: usize, lines: usize, characters: usize, longest: &str) {
        assert_eq!(count(text), Counts { words, lines, characters, longest: longest.to_owned() });
    }

    #[test]
    fn words_lines_and_characters_are_counted() {
        check("", 0, 0, 0, "");
        check(" \n\t\n", 0, 2, 4, "");
        check("to be or not", 4, 1, 12, "not");
        check("one\ntwo three\n", 3, 2, 14, "three");
        check("naïve café 東京", 3, 1, 13, "naïve");
    }

    #[test]
    fn the_first_of_the_longest_words_counts() {
        check("aa bb c", 3, 1, 7, "aa");
    }
}
