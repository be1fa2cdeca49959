use super::*;

fn host(text: &str) -> HostPattern {
    HostPattern::new(text).unwrap()
}

#[test]
fn a_star_is_one_label_and_an_address_is_itself() {
    for (pattern, asked, port, yes) in [
        ("api.example.org", "API.example.org", 443, true),
        ("api.example.org:8443", "api.example.org", 443, false),
        ("*.example.org", "a.example.org", 443, true),
        ("*.example.org", "a.b.example.org", 443, false),
        ("*.example.org", "example.org", 443, false),
        ("*.example.org", ".example.org", 443, false),
        ("*.*.0.1", "127.0.0.1", 80, false),
        ("127.0.0.1:80", "127.0.0.1", 80, true),
        ("[::1]:80", "::1", 80, true),
        ("api.example.org", "api.example.org.evil.example", 443, false),
    ] {
        // A pattern that cannot be written matches nothing.
        let matches = HostPattern::new(pattern).is_ok_and(|pattern| pattern.matches(asked, port));
        assert_eq!(matches, yes, "{pattern} {asked}:{port}");
    }
}

#[test]
fn a_host_that_leaves_doubt_is_refused() {
    for bad in [
        "",
        "*",
        "*.org",
        "a.*",
        "a..b",
        "-a.org",
        "a/b.org",
        "a@b.org",
        "0177.0.0.1",
        "2130706433",
        "127.0.0.1:0",
        "127.0.0.1:99999",
        "[::g]:80",
        "exa mple.org",
        "ä.org",
    ] {
        assert!(HostPattern::new(bad).is_err(), "{bad}");
    }
    for good in ["localhost", "localhost:8080", "*.b.example.org", "::1", "[2001:db8::1]:443"] {
        assert!(HostPattern::new(good).is_ok(), "{good}");
    }
}

#[test]
fn a_policy_refuses_by_name_and_lowers_numbers() {
    let grant = |hosts: &[&str], methods: &[&str], requests| HttpGrant {
        hosts: hosts.iter().map(|text| host(text)).collect(),
        methods: methods.iter().map(|&text| text.to_owned()).collect(),
        plain: true,
        private: false,
        requests,
        bytes: HTTP_BYTES,
        timeout: HTTP_TIMEOUT,
    };
    let asked = Grants {
        scratch: Some(Scratch::DEFAULT),
        env: vec!["LANG".to_owned(), "HOME".to_owned()],
        secrets: vec![SecretGrant {
            name: "KEY".to_owned(),
            hosts: vec![host("a.example.org"), host("evil.example.net")],
            reveal: true,
        }],
        http: vec![grant(&["a.example.org", "b.example.com"], &["GET", "POST"], 100)],
        children: vec![NamePattern::new("thumb.*").unwrap(), NamePattern::new("x").unwrap()],
        kv: vec![BucketGrant { bucket: "t".to_owned(), write: true }],
        ..Grants::default()
    };
    let policy = Grants {
        scratch: Some(Scratch { bytes: 10, files: 1 }),
        env: vec!["LANG".to_owned()],
        secrets: vec![SecretGrant {
            name: "KEY".to_owned(),
            hosts: vec![host("*.example.org")],
            reveal: false,
        }],
        http: vec![grant(&["*.example.org"], &["GET"], 5)],
        children: vec![NamePattern::new("thumb*").unwrap()],
        kv: vec![BucketGrant { bucket: ANY.to_owned(), write: false }],
        ..Grants::default()
    };
    let (left, refused) = asked.capped_by(&policy);
    assert_eq!(
        refused,
        [
            "env HOME",
            "secrets KEY@evil.example.net",
            "secrets KEY reveal",
            "http POST a.example.org",
            "http b.example.com",
            "children x",
            "kv t:rw"
        ]
    );
    assert_eq!(left.scratch, policy.scratch);
    assert_eq!((left.http[0].requests, left.http.len()), (5, 1));
    assert_eq!(left.kv[0].written(), "t");
    let (nothing, refused) = asked.capped_by(&Grants::default());
    assert!(nothing.is_empty() && refused.len() == 9, "{refused:?}");
    // A policy is not widened by itself.
    assert!(left.capped_by(&policy).1.is_empty());
    assert!(left.secrets[0].hosts == [host("a.example.org")] && !left.secrets[0].reveal);
}

fn grant(hosts: &[&str], methods: &[&str], plain: bool) -> HttpGrant {
    HttpGrant {
        hosts: hosts.iter().map(|text| host(text)).collect(),
        methods: methods.iter().map(|&text| text.to_owned()).collect(),
        plain,
        private: plain,
        requests: 1,
        bytes: 1,
        timeout: HTTP_TIMEOUT,
    }
}

#[test]
fn asking_for_a_pattern_is_no_way_around_what_a_policy_says_of_one_host() {
    let policy = Grants {
        http: vec![
            grant(&["db.example.org:443"], &["GET"], false),
            grant(&["*.example.org"], &["GET", "POST"], true),
            grant(&["late.example.org"], &["GET"], false),
        ],
        ..Grants::default()
    };
    for (asked, methods, refused) in [
        ("api.example.org", &["GET", "POST"][..], &[][..]),
        ("late.example.org", &["GET", "POST"], &[]),
        ("db.example.org:8443", &["GET", "POST"], &[]),
        ("db.example.org:443", &["GET"], &["POST", "plain", "private"]),
        ("db.example.org", &["GET"], &["POST", "plain", "private"]),
        ("*.example.org", &["GET"], &["POST", "plain", "private"]),
        ("*.example.org:443", &["GET"], &["POST", "plain", "private"]),
        ("*.example.org:8443", &["GET", "POST"], &[]),
    ] {
        let http = vec![grant(&[asked], &["GET", "POST"], true)];
        let (left, said) = Grants { http, ..Grants::default() }.capped_by(&policy);
        assert_eq!(left.http[0].methods, methods, "{asked}");
        let refused: Vec<_> = refused.iter().map(|word| format!("http {word} {asked}")).collect();
        assert_eq!(said, refused, "{asked}");
        assert_eq!(left.http[0].plain, refused.is_empty(), "{asked}");
    }
}

#[test]
fn hosts_overlap_where_one_request_is_meant_by_both() {
    for (one, other, yes) in [
        ("*.example.org", "a.example.org", true),
        ("*.b.example.org", "a.*.example.org", true),
        ("*.example.org", "a.b.example.org", false),
        ("a.example.org:1", "a.example.org", true),
        ("a.example.org:1", "a.example.org:2", false),
        ("*.*.0.1x", "127.0.0.1x", true),
        ("127.0.0.1", "127.0.0.1:80", true),
        ("::1", "[::1]:80", true),
    ] {
        assert_eq!(host(one).overlaps(&host(other)), yes, "{one} {other}");
        assert_eq!(host(other).overlaps(&host(one)), yes, "{other} {one}");
    }
}

#[test]
fn of_a_bucket_its_own_entry_counts_and_not_the_one_for_all() {
    let bucket = |bucket: &str, write| BucketGrant { bucket: bucket.to_owned(), write };
    for kv in [
        vec![bucket(ANY, true), bucket("fixed", false)],
        vec![bucket("fixed", false), bucket(ANY, true)],
    ] {
        let policy = Grants { kv, ..Grants::default() };
        let asked = vec![bucket("fixed", true), bucket("other", true)];
        let (left, refused) = Grants { kv: asked, ..Grants::default() }.capped_by(&policy);
        assert_eq!(left.kv, [bucket("fixed", false), bucket("other", true)]);
        assert_eq!(refused, ["kv fixed:rw"]);
    }
}

#[test]
fn a_secret_with_which_nothing_may_be_done_is_not_given() {
    let secret =
        |to: &str, reveal| SecretGrant { name: "KEY".to_owned(), hosts: vec![host(to)], reveal };
    let asked = Grants { secrets: vec![secret("evil.example.net", true)], ..Grants::default() };
    let policy = Grants { secrets: vec![secret("a.example.org", false)], ..Grants::default() };
    let (left, refused) = asked.capped_by(&policy);
    assert!(left.is_empty());
    assert_eq!(refused, ["secrets KEY@evil.example.net", "secrets KEY reveal"]);
}
