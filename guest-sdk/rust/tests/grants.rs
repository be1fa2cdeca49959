//! What is granted: children, buckets, settings, secrets. Denied unless the test says otherwise, as in a worker.

use std::cell::Cell;
use std::time::Duration;

use stem_guest::testing::{End, Run, TestHost};
use stem_guest::{Binary, Child, Context, HostError, Release, TaskError, When};
use stem_host_abi::limits;

/// Runs a closure that must come to its end.
fn passes(host: TestHost, look: impl FnOnce(&Context) -> Result<(), TaskError>) -> Run {
    let run = host.run(|ctx, (): ()| look(ctx));
    assert!(matches!(run.end, End::Returned(_)), "{:?}", run.end);
    run
}

fn denied<T: std::fmt::Debug>(answer: Result<T, HostError>) -> String {
    match answer {
        Err(HostError::Denied(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_granted_that_the_test_does_not_grant() {
    passes(TestHost::new(), |ctx| {
        let child = Child::new("thumb.small", &1);
        let kv = ctx.kv("thumbs");
        for (text, line) in [
            (denied(ctx.children().enqueue(child)), "children = [\"thumb.small\"]"),
            (denied(kv.entry("k")), "kv = [\"thumbs\"]"),
            (denied(kv.put("k", &1)), "kv = [\"thumbs:rw\"]"),
            (denied(kv.remove("k")), "kv = [\"thumbs:rw\"]"),
            (denied(ctx.config("SIZE")), "config = [\"SIZE\"]"),
            (denied(ctx.secrets().placeholder("KEY")), "secrets = [\"KEY@HOST\"]"),
            (denied(ctx.secrets().reveal("KEY")), "secrets = [{ name = \"KEY\", reveal = true }]"),
        ] {
            assert!(text.contains(line), "{text}");
        }
        Ok(())
    });
    let run = TestHost::new().run(|ctx: &Context, (): ()| Ok(ctx.config("SIZE")?));
    assert_eq!(run.failure().code(), "denied");
    assert!(!run.failure().is_retryable());
}

#[test]
fn children_are_enqueued_in_order_once_for_each_key() {
    let host = TestHost::new().allow_children("thumb.*").allow_children("mail");
    let run = passes(host, |ctx| {
        let children = ctx.children();
        let thumb = |picture: &str| {
            Child::new("thumb.small", picture)
                .queue("images")
                .delay(Duration::from_secs(1))
                .dedup_key(picture)
                .header("tenant", "blue")
        };
        let ids = children.enqueue_all([thumb("a.png"), thumb("b.png"), thumb("a.png")])?;
        assert_eq!(ids, ["child-1", "child-2", "child-1"]);
        let bytes = Child::with_payload("mail", Binary::new("text/plain", b"hello".to_vec()));
        assert_eq!(children.on_success().enqueue(bytes)?, "child-3");
        assert_eq!(children.enqueue_all([]), Ok(vec![]));
        Ok(())
    });
    let names: Vec<_> = run.children.iter().map(|child| child.child.task_name.as_str()).collect();
    assert_eq!(names, ["thumb.small", "thumb.small", "mail"]);
    assert_eq!(run.children[0].child.input, Ok(Binary::json(b"\"a.png\"".to_vec())));
    assert_eq!(
        (run.children[1].release, run.children[2].release),
        (Release::Now, Release::OnSuccess)
    );
}

#[test]
fn children_of_a_success_are_not_there_without_it() {
    let host = TestHost::new().allow_children("*");
    let run = host.run(|ctx: &Context, (): ()| {
        ctx.children().enqueue(Child::new("now", &()))?;
        ctx.children().on_success().enqueue(Child::new("later", &()))?;
        Err::<(), _>(TaskError::retryable("busy", "later"))
    });
    assert_eq!(run.children.len(), 1);
    assert_eq!(run.children[0].child.task_name, "now");
}

#[test]
fn children_out_of_their_bounds_are_refused_and_none_of_the_call_is_there() {
    let run = passes(TestHost::new().allow_children("a*"), |ctx| {
        let children = ctx.children();
        let good = || Child::new("a", &1);
        let unwritable = std::collections::HashMap::from([((1, 2), 3)]);
        for (bad, code) in [
            (Child::new("b", &1), "denied"),
            (Child::new("a b", &1), "invalid"),
            (Child::new("a", &unwritable), "invalid"),
            (good().queue(""), "invalid"),
            (good().dedup_key("with space"), "invalid"),
            (good().header("x", "1").header("x", "2"), "invalid"),
            (good().header("x", "1".repeat(4096)), "invalid"),
            (Child::with_payload("a", Binary::json(vec![b'1'; (1 << 20) + 1])), "too-large"),
        ] {
            assert_eq!(
                children.enqueue_all([good(), bad.clone()]).unwrap_err().code(),
                code,
                "{bad:?}"
            );
        }
        let many = |count| (0..count).map(|_| good());
        assert_eq!(children.enqueue_all(many(101)).unwrap_err().code(), "invalid");
        for _ in 0..10 {
            children.enqueue_all(many(100))?;
        }
        assert_eq!(children.enqueue(good()).unwrap_err().code(), "quota");
        Ok(())
    });
    assert_eq!(run.children.len(), limits::CHILDREN_PER_ATTEMPT);
}

#[test]
fn values_have_versions_conditions_and_an_end() {
    let host = TestHost::new().value("seen", "old", &"before").bucket_read_only("fixed");
    let run = passes(host, |ctx| {
        let seen = ctx.kv("seen");
        assert_eq!(seen.get::<String>("old")?.as_deref(), Some("before"));
        assert_eq!(seen.get::<u8>("old").unwrap_err().code(), "invalid-value");
        assert_eq!(seen.get::<u8>("new")?, None);
        let first = seen.put_if("new", &1, When::Absent)?;
        assert_eq!(seen.put_if("new", &2, When::Absent), Err(HostError::Conflict));
        let second = seen.put_if("new", &2, When::Version(first))?;
        assert!(second > first);
        assert_eq!(seen.put_if("new", &3, When::Version(first)), Err(HostError::Conflict));
        assert_eq!(seen.entry("new")?.unwrap().version, second);
        assert_eq!(seen.remove_if("new", first), Err(HostError::Conflict));
        assert_eq!((seen.remove("new"), seen.remove("new")), (Ok(true), Ok(false)));
        assert!(seen.put("new", &4)? > second);

        let brief = seen.expiring_after(Duration::from_secs(5));
        brief.put("brief", &1)?;
        ctx.sleep(Duration::from_secs(4))?;
        assert_eq!(seen.get("brief")?, Some(1));
        ctx.sleep(Duration::from_secs(1))?;
        assert_eq!(seen.entry("brief")?, None);

        assert_eq!(ctx.kv("fixed").entry("k")?, None);
        denied(ctx.kv("fixed").put("k", &1));
        for (key, code) in [("", "invalid"), ("a\nb", "invalid"), (&"k".repeat(513), "too-large")] {
            assert_eq!(seen.put(key, &1).unwrap_err().code(), code);
        }
        assert_eq!(
            seen.put_bytes("k", &vec![0; 65_537], When::Always),
            Err(HostError::TooLarge(65_536))
        );
        assert_eq!(seen.expiring_after(Duration::ZERO).put("k", &1).unwrap_err().code(), "invalid");
        assert_eq!(ctx.kv("a:b").entry("k").unwrap_err().code(), "invalid");
        Ok(())
    });
    assert_eq!(run.value::<u8>("seen", "new"), Some(4));
    assert_eq!(run.value::<u8>("seen", "brief"), None);
    assert_eq!(run.values.len(), 2);
}

#[test]
fn settings_and_secrets_are_what_the_test_says() {
    let host = TestHost::new()
        .config("SIZE", "128")
        .config("UNSET", None)
        .secret("API_KEY")
        .revealed_secret("DB", "hunter2");
    passes(host, |ctx| {
        assert_eq!(ctx.config("SIZE")?.as_deref(), Some("128"));
        assert_eq!(ctx.config("UNSET")?, None);
        assert_eq!(ctx.secrets().placeholder("API_KEY")?, "stem-secret-API_KEY");
        denied(ctx.secrets().reveal("API_KEY"));
        assert_eq!(ctx.secrets().reveal("DB")?, b"hunter2");
        Ok(())
    });
}

#[test]
fn a_host_that_cannot_reach_its_services_says_so() {
    let host = TestHost::new().unavailable().allow_children("*").bucket("b").config("SIZE", "1");
    passes(host, |ctx| {
        let child = Child::new("a", &1);
        assert_eq!(ctx.children().enqueue(child).unwrap_err().code(), "unavailable");
        assert_eq!(ctx.kv("b").entry("k").unwrap_err().code(), "unavailable");
        assert_eq!(ctx.kv("b").put("k", &1).unwrap_err().code(), "unavailable");
        assert_eq!(ctx.config("SIZE")?.as_deref(), Some("1"));
        Ok(())
    });
}

#[test]
fn after_a_terminate_no_call_returns() {
    type Call = fn(&Context);
    let calls: [Call; 7] = [
        |ctx| drop(ctx.children().enqueue(Child::new("a", &1))),
        |ctx| drop(ctx.kv("b").entry("k")),
        |ctx| drop(ctx.kv("b").put("k", &1)),
        |ctx| drop(ctx.kv("b").remove("k")),
        |ctx| drop(ctx.config("SIZE")),
        |ctx| drop(ctx.secrets().placeholder("KEY")),
        |ctx| drop(ctx.secrets().reveal("KEY")),
    ];
    for (index, call) in calls.into_iter().enumerate() {
        let after = Cell::new(false);
        let host = TestHost::new().allow_children("*").bucket("b").terminate_after(1);
        let run = host.run(|ctx: &Context, (): ()| {
            ctx.heartbeat()?;
            call(ctx);
            after.set(true);
            Ok(())
        });
        assert_eq!(run.end, End::Terminated, "call {index}");
        assert!(!after.get() && run.children.is_empty() && run.values.is_empty());
    }
}
