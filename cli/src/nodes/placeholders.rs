//! `%n` and its kin in paths and commands.

use stem_core::id::WorkerId;

/// What stands for a node's placeholders.
#[derive(Clone, Copy, Debug)]
pub struct Placeholders<'a> {
    /// `%n`, and in upper case `%N`.
    pub node: &'a WorkerId,
    /// `%i` and `%I`: its place in the list, from 1.
    pub index: u32,
    /// `%h`.
    pub host: &'a str,
    /// `%d`: one moment for all nodes of a command, fit for the name of a file.
    pub time: &'a str,
}

impl Placeholders<'_> {
    /// Replaces every placeholder. What comes in for one is not read again. The error names the one that there is not.
    pub fn expand(self, text: &str) -> Result<String, String> {
        let mut expanded = String::with_capacity(text.len());
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                expanded.push(letter);
                continue;
            }
            match letters.next() {
                Some('n') => expanded.push_str(self.node.as_str()),
                Some('N') => expanded.push_str(&self.node.as_str().to_ascii_uppercase()),
                Some('h') => expanded.push_str(self.host),
                Some('i' | 'I') => expanded.push_str(&self.index.to_string()),
                Some('d') => expanded.push_str(self.time),
                Some('%') => expanded.push('%'),
                Some(other) => {
                    return Err(format!("there is no placeholder %{}", other.escape_default()));
                }
                None => return Err("it ends in a single %".to_owned()),
            }
        }
        Ok(expanded)
    }
}

/// Whether `%d` is in it.
pub fn has_time(text: &str) -> bool {
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        // The letter behind a percent sign is never the beginning of another placeholder.
        if letter == '%' && letters.next() == Some('d') {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_placeholder_stands_for_its_thing() {
        let node = WorkerId::new("alpha-1").unwrap();
        let of = Placeholders { node: &node, index: 3, host: "h%n", time: "T" };
        assert_eq!(of.expand("%n %N %h %i%I %d 100%%").unwrap(), "alpha-1 ALPHA-1 h%n 33 T 100%");
        assert!(has_time("a%d") && has_time("%%%d") && !has_time("%%d %n d%"));
        assert_eq!(of.expand("none").unwrap(), "none");
        for (text, words) in
            [("%x", "%x"), ("a%H", "%H"), ("100%", "single %"), ("%\u{1b}", "\\u{1b}")]
        {
            let error = of.expand(text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
