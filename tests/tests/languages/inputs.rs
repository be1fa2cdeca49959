//! What inputs can look like at their edges. Where `guest-sdk/CONFORMANCE.md` says one thing, every language does that; where it
//! leaves a choice, each does one of the things it names, and none crashes.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use stem_core::envelope::JSON;
use stem_core::outcome::{FailureKind, Outcome, RetryAdvice, StopReason};
use stem_isolate::AttemptHost;

use crate::{BYTES, Bench, Language, within};

const A: &str = r#"{"text":"a","bytes":1}"#;
const REPLACED: &str = "{\"text\":\"\u{fffd}\",\"bytes\":3}";

impl Bench {
    pub(crate) async fn inputs(&self, language: &Language) {
        self.shapes().await;
        self.choices(language).await;
        self.sizes(language).await;
        // Their modules keep the state that the build has left.
        if ["js", "python"].contains(&language.lang) {
            self.fresh().await;
        }
    }

    async fn shapes(&self) {
        for (input, result) in [
            // Of a key that stands twice, the last counts; keys are compared as they are.
            (r#"{"op":"fly","op":"echo","text":"b","text":"a"}"#, A),
            (r#"{"op":"echo","text":"a","TEXT":"b","Op":"fly","":1,"__proto__":{"text":"c"}}"#, A),
            (r#"{"op":"echo","text":"a","n":[-0,1e3,0.5,-1.5E-7,12345678901234567890123]}"#, A),
        ] {
            self.assert_answer(input, result).await;
        }
        self.assert_answer(&nested(50), A).await;
        let other = self.answer("application/vnd.x+json; v=1", br#"{"op":"sleep","ms":0}"#).await;
        assert_eq!((other.bytes.as_slice(), &*other.media_type), (&br#"{"ms":0}"#[..], JSON));

        for (input, code) in [
            ("\u{feff}{\"op\":\"info\"}", "invalid-arguments"),
            (r#"{"op":"info"} x"#, "invalid-arguments"),
            (r#"{"op":"info"}{}"#, "invalid-arguments"),
            (r#"{"op":"info",}"#, "invalid-arguments"),
            (r#"{"op":"info","n":NaN}"#, "invalid-arguments"),
            (r#"{"op":"info","n":01}"#, "invalid-arguments"),
            ("{\"op\":\"info\",\"t\":\"\0\"}", "invalid-arguments"),
            ("{'op':'info'}", "invalid-arguments"),
            (" ", "invalid-arguments"),
            ("null", "invalid-arguments"),
            ("1", "invalid-arguments"),
            (r#""op""#, "invalid-arguments"),
            (r#"{"op":"echo","text":null}"#, "invalid-arguments"),
            (r#"{"op":"sleep","ms":true}"#, "invalid-arguments"),
            (r#"{"op":"sleep","ms":1.5}"#, "invalid-arguments"),
            (r#"{"op":"spin","rounds":null}"#, "invalid-arguments"),
            (r#"{"op":"fail","kind":"constructor","code":"c","message":"m"}"#, "invalid-arguments"),
            (r#"{"op":"constructor"}"#, "unknown-op"),
            (r#"{"op":"__proto__"}"#, "unknown-op"),
            (r#"{"op":"Echo","text":"a"}"#, "unknown-op"),
            (r#"{"op":""}"#, "unknown-op"),
        ] {
            self.assert_fatal(input.as_bytes(), code).await;
        }
    }

    async fn choices(&self, language: &Language) {
        for (input, result) in [
            (r#"{"op":"echo","text":"\ud83d"}"#.as_bytes(), REPLACED),
            (b"{\"op\":\"echo\",\"text\":\"\xff\"}", REPLACED),
            (br#"{"op":"sleep","ms":1e0}"#, r#"{"ms":1}"#),
            (br#"{"op":"sleep","ms":1.0}"#, r#"{"ms":1}"#),
            (br#"{"op":"sleep","ms":-0}"#, r#"{"ms":0}"#),
            (br#"{"\u006fp":"echo","text":"a"}"#, A),
            (br#"{"op":"echo","text":"a","n":1e400}"#, A),
            (nested(1_000).as_bytes(), A),
            (format!(r#"{{"op":"echo","text":"a","n":{}}}"#, "9".repeat(10_000)).as_bytes(), A),
        ] {
            self.assert_fatal_or(input, result).await;
        }
        // Go's reader goes on to a depth of 10,000, for which the stack is too small.
        if language.lang != "go" {
            self.assert_fatal_or(nested(200_000).as_bytes(), A).await;
        }
        // A text that was cut within a character must not make of this a crash, which is tried again.
        let cut = br#"{"op":"fail","kind":"fatal","code":"c","message":"half \ud83d"}"#;
        let exit = self.run(JSON, cut).await;
        let Outcome::Failed { failure, retry: RetryAdvice::Never } = &exit.outcome else {
            panic!("{exit:?}");
        };
        let said = (failure.code.as_str(), failure.message.as_str());
        assert!(said.0 == "invalid-arguments" || said == ("c", "half \u{fffd}"), "{said:?}");
    }

    async fn sizes(&self, language: &Language) {
        let most = vec![b'x'; 1 << 20];
        let answer = self.answer(BYTES, &most).await;
        assert!(answer.bytes == most && answer.media_type == BYTES, "{}", answer.media_type);
        let empty = self.answer(BYTES, b"").await;
        assert_eq!((empty.bytes.len(), &*empty.media_type), (0, BYTES));
        // A command has no way to say what its result is: the worker looks at it.
        let expected = if ["c", "go"].contains(&language.lang) { JSON } else { BYTES };
        assert_eq!(self.answer(BYTES, b"[1]").await.media_type, expected);

        let input = format!(r#"{{"op":"echo","text":"{}"}}"#, "x".repeat(1 << 20));
        let exit = self.run(JSON, input.as_bytes()).await;
        let Outcome::Failed { failure, retry: RetryAdvice::Never } = &exit.outcome else {
            panic!("{exit:?}");
        };
        assert_eq!(failure.code, "result-too-large", "{}", failure.message);

        // The longest whole number is a long time, and no overflow.
        let input = r#"{"op":"fail","kind":"retryable","code":"c","message":"m","afterMs":9007199254740991}"#;
        let exit = self.run(JSON, input.as_bytes()).await;
        let Outcome::Failed { retry: RetryAdvice::After(after), .. } = &exit.outcome else {
            panic!("{exit:?}");
        };
        assert!(*after >= Duration::from_hours(24), "{after:?}");
        let input = br#"{"op":"sleep","ms":9007199254740991}"#;
        let host = Arc::clone(&self.worker) as Arc<dyn AttemptHost>;
        let attempt = self.runtime.start(&self.module, Self::spec(JSON, input), host);
        let (guest, end) = attempt.into_parts();
        let mut end = Box::pin(end);
        let early = tokio::time::timeout(Duration::from_millis(300), &mut end).await;
        assert!(early.is_err(), "it does not sleep: {early:?}");
        guest.stop(StopReason::TimeLimit, true);
        let exit = within(end).await;
        assert!(!matches!(exit.outcome, Outcome::Succeeded(_)), "{exit:?}");
    }

    /// What a build computes is in the module, so an attempt must make its own of what is to be fresh. Two attempts of one name.
    async fn fresh(&self) {
        let input = br#"{"op":"fresh"}"#;
        let mut drawn = Vec::new();
        for _ in 0..2 {
            let answer = self.answer(JSON, input).await;
            let answer: Value = serde_json::from_slice(&answer.bytes).unwrap();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() * 1000.0;
            let told = answer["nowMs"].as_f64().unwrap();
            assert!((now - told).abs() < 60_000.0, "{told} is not {now}");
            drawn.extend(answer["drawn"].as_array().unwrap().iter().map(ToString::to_string));
        }
        let count = drawn.len();
        drawn.sort();
        drawn.dedup();
        assert!(count > 2 && drawn.len() == count, "drawn twice: {drawn:?}");
    }

    async fn assert_fatal(&self, input: &[u8], code: &str) {
        let exit = self.run(JSON, input).await;
        let words = String::from_utf8_lossy(&input[..input.len().min(100)]);
        let Outcome::Failed { failure, retry: RetryAdvice::Never } = &exit.outcome else {
            panic!("{words}: {exit:?}");
        };
        assert_eq!((failure.kind, &*failure.code), (FailureKind::Error, code), "{words}");
    }

    async fn assert_fatal_or(&self, input: &[u8], result: &str) {
        let exit = self.run(JSON, input).await;
        let words = String::from_utf8_lossy(&input[..input.len().min(100)]);
        match &exit.outcome {
            Outcome::Succeeded(payload) => {
                assert_eq!(String::from_utf8_lossy(&payload.bytes), result, "{words}");
            }
            Outcome::Failed { failure, retry: RetryAdvice::Never } => {
                let said = (failure.kind, &*failure.code);
                assert_eq!(said, (FailureKind::Error, "invalid-arguments"), "{words}");
            }
            other => panic!("{words}: {other:?}"),
        }
    }
}

/// An echo with a list of lists, so deep.
fn nested(depth: usize) -> String {
    let (open, close) = ("[".repeat(depth), "]".repeat(depth));
    format!(r#"{{"op":"echo","text":"a","more":{open}{close}}}"#)
}
