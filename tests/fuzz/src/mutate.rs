//! [`Mutator`]: changes bytes by a seed's dice, as files and messages go wrong, or are made to.

/// Random numbers that a seed repeats (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// From this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`; 0 if that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % (end.max(1) as u64)).unwrap_or(0)
    }

    /// One of these, which are not none.
    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

/// No input grows beyond this.
const MOST_BYTES: usize = 32 << 10;

/// Numbers at which something changes.
const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "1",
    "9",
    "10",
    "127",
    "128",
    "255",
    "256",
    "65535",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "4294967296",
    "9007199254740991",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e400",
    "-0",
    "0.5",
    "00",
    "NaN",
];

/// Bytes at which something changes.
const BYTES: &[u8] = b"\0\x01\x7f\x80\xff\n\r\t \"'\\{}[]:,=#/.;-_";

/// Bytes that are no text, or no text that should be shown.
const NO_TEXT: &[&[u8]] = &[
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xc0\xaf",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xae",
    b"\0",
    b"\x1b[2J",
    b"\xc2\x85",
    b"\\ud800",
    b"\\u0000",
];

/// What opens one level, and what closes it.
const NESTS: &[(&str, &str)] =
    &[("[", "]"), ("{\"a\":", "}"), ("(", ")"), ("{a=", "}"), ("\\", ""), ("'", "")];

/// The dice of one run.
#[derive(Debug)]
pub struct Mutator {
    dice: Dice,
    words: &'static [&'static str],
}

impl Mutator {
    /// From a seed, for a reader to which these words mean something.
    pub fn new(seed: u64, words: &'static [&'static str]) -> Self {
        Self { dice: Dice::new(seed), words }
    }

    /// One of these, which are not none, changed in one to eight ways. The first `seeds` of them and the newest are taken
    /// more often.
    pub fn next(&mut self, pool: &[Vec<u8>], seeds: usize) -> Vec<u8> {
        let newest = pool.len().saturating_sub(16);
        let at = match self.dice.below(3) {
            0 => newest + self.dice.below(pool.len() - newest),
            1 => self.dice.below(seeds.min(pool.len())),
            _ => self.dice.below(pool.len()),
        };
        let mut bytes = pool[at].clone();
        let changes = 1 << self.dice.below(4);
        for _ in 0..=self.dice.below(changes) {
            self.change(&mut bytes, pool);
        }
        bytes.truncate(MOST_BYTES);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, pool: &[Vec<u8>]) {
        match self.dice.below(16) {
            0 => self.at_a_byte(bytes, |byte, dice| byte ^ (1 << dice.below(8))),
            1 => self.at_a_byte(bytes, |_, dice| BYTES[dice.below(BYTES.len())]),
            // A length that is one too many or too few.
            2 => self.at_a_byte(bytes, |byte, dice| byte.wrapping_add([1, 255][dice.below(2)])),
            3 => {
                let (from, to) = self.range(bytes);
                bytes.drain(from..to);
            }
            4 => {
                let (from, to) = self.range(bytes);
                let again = bytes[from..to].to_vec();
                self.insert(bytes, &again);
            }
            5 => bytes.truncate(self.dice.below(bytes.len() + 1)),
            6 | 7 if !self.words.is_empty() => {
                let word = self.dice.pick(self.words);
                self.put(bytes, word.as_bytes());
            }
            8 => {
                let other = &pool[self.dice.below(pool.len())];
                let (from, to) = self.range(other);
                self.put(bytes, &other[from..to]);
            }
            9 | 10 => self.at_a_run(bytes, u8::is_ascii_digit, |dice| dice.pick(NUMBERS).into()),
            11 => {
                let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
                let words = self.words;
                self.at_a_run(bytes, word, |dice| match dice.below(3) {
                    0 => "x".repeat(1 << dice.below(12)),
                    1 if !words.is_empty() => dice.pick(words).into(),
                    _ => String::new(),
                });
            }
            12 => {
                let bad = self.dice.pick(NO_TEXT);
                self.put(bytes, bad);
            }
            13 => {
                let (open, close) = NESTS[self.dice.below(NESTS.len())];
                let depth = 1 << self.dice.below(13);
                let closed =
                    if self.dice.below(2) == 0 { close.repeat(depth) } else { String::new() };
                self.put(bytes, (open.repeat(depth) + &closed).as_bytes());
            }
            _ => self.at_lines(bytes),
        }
        bytes.truncate(MOST_BYTES);
    }

    /// A part of them, mostly a short one; empty where there is none.
    fn range(&mut self, bytes: &[u8]) -> (usize, usize) {
        let from = self.dice.below(bytes.len());
        let most = (bytes.len() - from).min(1 << self.dice.below(10));
        (from, from + self.dice.below(most + 1))
    }

    fn at_a_byte(&mut self, bytes: &mut [u8], change: impl FnOnce(u8, &mut Dice) -> u8) {
        let at = self.dice.below(bytes.len());
        if let Some(byte) = bytes.get_mut(at) {
            *byte = change(*byte, &mut self.dice);
        }
    }

    fn insert(&mut self, bytes: &mut Vec<u8>, more: &[u8]) {
        let at = self.dice.below(bytes.len() + 1);
        bytes.splice(at..at, more.iter().copied());
    }

    /// Between others, or over as many.
    fn put(&mut self, bytes: &mut Vec<u8>, more: &[u8]) {
        if self.dice.below(2) == 0 {
            return self.insert(bytes, more);
        }
        let at = self.dice.below(bytes.len() + 1);
        let to = (at + more.len()).min(bytes.len());
        bytes.splice(at..to, more.iter().copied());
    }

    /// Something else for one run of such bytes.
    fn at_a_run(
        &mut self,
        bytes: &mut Vec<u8>,
        fits: impl Fn(&u8) -> bool,
        other: impl FnOnce(&mut Dice) -> String,
    ) {
        let start = self.dice.below(bytes.len());
        let Some(from) = bytes.iter().skip(start).position(&fits).map(|at| at + start) else {
            return;
        };
        let to =
            bytes[from..].iter().position(|byte| !fits(byte)).map_or(bytes.len(), |at| from + at);
        let from = bytes[..from].iter().rposition(|byte| !fits(byte)).map_or(0, |at| at + 1);
        let other = other(&mut self.dice);
        bytes.splice(from..to, other.into_bytes());
    }

    /// A line left out, twice, or where another was.
    fn at_lines(&mut self, bytes: &mut Vec<u8>) {
        let mut lines: Vec<Vec<u8>> =
            bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        let (one, other) = (self.dice.below(lines.len()), self.dice.below(lines.len()));
        match self.dice.below(3) {
            0 => drop(lines.remove(one)),
            1 => lines.insert(other, lines[one].clone()),
            _ => lines.swap(one, other),
        }
        *bytes = lines.join(&b'\n');
    }
}
