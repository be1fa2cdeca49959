//! [`TraceParent`]: the W3C trace context that a task carries from its producer to whoever runs it.

use std::fmt;

/// Of the text of version 00.
const LENGTH: usize = 55;

/// Which trace something belongs to, and what its parent there is; <https://www.w3.org/TR/trace-context/>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace; never 0.
    pub trace_id: u128,
    /// The span that is the parent; never 0.
    pub span_id: u64,
    /// Bit 0: whether the trace is recorded.
    pub flags: u8,
}

impl TraceParent {
    /// Reads a `traceparent`; `None` if it is none. A version above 00 is read as far as it is like 00, as the
    /// standard asks for.
    pub fn parse(text: &str) -> Option<Self> {
        let lower_hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let (known, rest) = text.split_at_checked(LENGTH)?;
        let mut parts = known.split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let lengths = [version.len(), trace.len(), span.len(), flags.len()];
        let ends = match version {
            "00" => rest.is_empty(),
            "ff" => false,
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        if lengths != [2, 32, 16, 2]
            || !ends
            || ![version, trace, span, flags].iter().all(|part| lower_hex(part))
        {
            return None;
        }
        let parent = Self {
            trace_id: u128::from_str_radix(trace, 16).ok()?,
            span_id: u64::from_str_radix(span, 16).ok()?,
            flags: u8::from_str_radix(flags, 16).ok()?,
        };
        (parent.trace_id != 0 && parent.span_id != 0).then_some(parent)
    }

    /// The trace as logs and other tools write it: 32 hexadecimal digits.
    pub fn trace(&self) -> String {
        format!("{:032x}", self.trace_id)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_written_reads_back() {
        let parent = TraceParent::parse(GOOD).unwrap();
        assert_eq!(parent.to_string(), GOOD);
        assert_eq!(parent.trace(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((parent.span_id, parent.flags), (0x00f0_67aa_0ba9_02b7, 1));
    }

    #[test]
    fn a_newer_version_may_say_more_and_what_is_none_is_refused() {
        let newer = GOOD.replacen("00", "42", 1);
        assert!(TraceParent::parse(&newer).is_some());
        assert!(TraceParent::parse(&format!("{newer}-more")).is_some());
        for bad in [
            String::new(),
            "ä".repeat(40),
            GOOD[1..].to_owned(),
            format!("{GOOD}-"),
            format!("{newer}more"),
            GOOD.to_uppercase(),
            GOOD.replacen("00", "ff", 1),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace("4bf9", "+bf9"),
            GOOD.replace('-', "_"),
        ] {
            assert_eq!(TraceParent::parse(&bad), None, "{bad}");
        }
    }
}
