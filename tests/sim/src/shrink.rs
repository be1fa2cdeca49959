//! [`needed`]: which kinds of trouble a violation needs.

use crate::plan::Kinds;
use crate::world::{Options, run};

/// Turns one kind off after the other, as long as the same rule is broken; what is left is needed.
pub fn needed(seed: u64, options: &Options) -> Kinds {
    let report = run(seed, options);
    let mut kinds = report.kinds;
    let Some(rule) = report.violation.map(|violation| violation.rule) else { return kinds };
    let mut off = options.off;
    for (kind, _) in Kinds::NAMES {
        let less = Options { off: off.with(kind), ..*options };
        if kinds.has(kind)
            && run(seed, &less).violation.is_some_and(|violation| violation.rule == rule)
        {
            off = less.off;
            kinds = kinds.without(kind);
        }
    }
    kinds
}
