use proptest::prelude::*;
use serde_json::{Value, json};

use super::pattern::matches;
use super::*;

fn parse(document: &Value) -> Result<Policy, PolicyError> {
    Policy::parse(&document.to_string(), Scope::Bucket("bkt"))
}

fn of(statements: Value) -> Policy {
    parse(&json!({"Version": "2012-10-17", "Statement": statements})).unwrap()
}

fn alice() -> Principal {
    Principal { id: "a11ce".to_owned(), name: "alice".to_owned() }
}

fn facts(pairs: &[(&str, &str)]) -> Facts {
    let mut facts = Facts::default();
    for (key, value) in pairs {
        facts.add(key, *value);
    }
    facts
}

fn decide(policy: &Policy, who: Option<&Principal>, action: &str, resource: &str, facts: &Facts) -> Decision {
    let resource = format!("arn:aws:s3:::{resource}");
    evaluate(policy, &Request { principal: who, action, resource: &resource, facts })
}

fn with_condition(condition: Value) -> Policy {
    of(
        json!([{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::bkt/*",
               "Condition": condition}]),
    )
}

/// What a condition says of a request of which this is known.
fn condition_holds(condition: Value, known: &[(&str, &str)]) -> bool {
    let policy = with_condition(condition);
    decide(&policy, None, "s3:GetObject", "bkt/k", &facts(known)) == Decision::Allow
}

#[test]
fn an_explicit_deny_wins_wherever_it_stands() {
    let allow =
        json!({"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::bkt/*"});
    let deny = json!({"Effect": "Deny", "Principal": {"AWS": "alice"}, "Action": "s3:Delete*",
                      "Resource": "arn:aws:s3:::bkt/*"});
    for policy in [of(json!([allow, deny])), of(json!([deny, allow]))] {
        let ask = |who: Option<&Principal>, action| decide(&policy, who, action, "bkt/k", &Facts::default());
        assert_eq!(ask(Some(&alice()), "s3:DeleteObject"), Decision::Deny);
        assert_eq!(ask(Some(&alice()), "s3:GetObject"), Decision::Allow);
        assert_eq!(ask(None, "s3:DeleteObject"), Decision::Allow);
        let elsewhere = decide(&policy, None, "s3:GetObject", "bkt", &Facts::default());
        assert_eq!(elsewhere, Decision::Silent);
    }
}

#[test]
fn principals_are_ids_names_or_arns_of_users() {
    for (principal, is_alice) in [
        (json!("*"), true),
        (json!({"AWS": "*"}), true),
        (json!({"AWS": "a11ce"}), true),
        (json!({"CanonicalUser": ["x", "a11ce"]}), true),
        (json!({"AWS": "arn:aws:iam::coffer:user/alice"}), true),
        (json!({"AWS": "arn:aws:iam:::user/team/alice"}), true),
        (json!({"AWS": "arn:aws:iam::a11ce:root"}), true),
        (json!({"AWS": "arn:aws:iam::a11ce:role/x"}), false),
        (json!({"AWS": "arn:aws:iam::other:root"}), false),
        (json!({"AWS": "arn:aws:sts:::user/alice"}), false),
        (json!({"AWS": "bob"}), false),
        (json!({"Service": "alice"}), false),
    ] {
        let statement = json!({"Effect": "Allow", "Principal": principal, "Action": "s3:ListBucket",
                               "Resource": "arn:aws:s3:::bkt"});
        let said = decide(&of(statement), Some(&alice()), "s3:ListBucket", "bkt", &Facts::default());
        assert_eq!(said == Decision::Allow, is_alice, "{principal}");
    }
    let others = of(json!({"Effect": "Deny", "NotPrincipal": {"AWS": "alice"}, "Action": "s3:ListBucket",
                           "Resource": "arn:aws:s3:::bkt"}));
    let said = |who| decide(&others, who, "s3:ListBucket", "bkt", &Facts::default());
    assert_eq!((said(Some(&alice())), said(None)), (Decision::Silent, Decision::Deny));
}

#[test]
fn conditions_compare_as_documented() {
    for (condition, known, holds) in [
        (json!({"StringEquals": {"s3:prefix": ["a", "b"]}}), vec![("s3:prefix", "b")], true),
        (json!({"StringEquals": {"s3:prefix": "a"}}), vec![], false),
        (json!({"StringEqualsIfExists": {"s3:prefix": "a"}}), vec![], true),
        (json!({"StringEqualsIfExists": {"s3:prefix": "a"}}), vec![("s3:prefix", "b")], false),
        (json!({"StringNotEquals": {"s3:prefix": ["a", "b"]}}), vec![("s3:prefix", "b")], false),
        (json!({"StringNotEquals": {"s3:prefix": "a"}}), vec![], true),
        (json!({"StringEqualsIgnoreCase": {"s3:prefix": "AB"}}), vec![("s3:prefix", "ab")], true),
        (json!({"StringLike": {"s3:x-amz-acl": "public*"}}), vec![("s3:x-amz-acl", "public-read")], true),
        (json!({"StringNotLike": {"s3:x-amz-acl": "public*"}}), vec![("s3:x-amz-acl", "private")], true),
        (json!({"NumericLessThanEquals": {"s3:max-keys": 10}}), vec![("s3:max-keys", "10")], true),
        (json!({"NumericGreaterThan": {"s3:max-keys": "10"}}), vec![("s3:max-keys", "10")], false),
        (json!({"NumericEquals": {"s3:max-keys": "10"}}), vec![("s3:max-keys", "ten")], false),
        (json!({"Bool": {"aws:SecureTransport": "false"}}), vec![("aws:securetransport", "false")], true),
        (json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}), vec![("aws:SourceIp", "10.9.9.9")], true),
        (
            json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}),
            vec![("aws:SourceIp", "::ffff:10.1.1.1")],
            true,
        ),
        (json!({"IpAddress": {"aws:SourceIp": "0.0.0.0/0"}}), vec![("aws:SourceIp", "::1")], false),
        (json!({"IpAddress": {"aws:SourceIp": "::/0"}}), vec![("aws:SourceIp", "::1")], true),
        (json!({"NotIpAddress": {"aws:SourceIp": ["10.0.0.0/8"]}}), vec![("aws:SourceIp", "11.1.1.1")], true),
        (
            json!({"DateLessThan": {"aws:CurrentTime": "2030-01-01T00:00:00Z"}}),
            vec![("aws:CurrentTime", "2029-12-31T23:59:59Z")],
            true,
        ),
        (
            json!({"DateGreaterThan": {"aws:EpochTime": "2030-01-01"}}),
            vec![("aws:EpochTime", "1893456000")],
            false,
        ),
        (json!({"Null": {"s3:x-amz-server-side-encryption": "true"}}), vec![], true),
        (json!({"Null": {"s3:x-amz-acl": false}}), vec![("s3:x-amz-acl", "private")], true),
        (
            json!({"ForAllValues:StringEquals": {"s3:RequestObjectTagKeys": ["a", "b"]}}),
            vec![("s3:RequestObjectTagKeys", "a"), ("s3:RequestObjectTagKeys", "c")],
            false,
        ),
        (
            json!({"ForAnyValue:StringEquals": {"s3:RequestObjectTagKeys": ["a", "b"]}}),
            vec![("s3:RequestObjectTagKeys", "a"), ("s3:RequestObjectTagKeys", "c")],
            true,
        ),
        (json!({"ForAllValues:StringEquals": {"s3:RequestObjectTagKeys": "a"}}), vec![], true),
        (
            json!({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:user/a*"}}),
            vec![("aws:PrincipalArn", "arn:aws:iam::1:user/alice")],
            true,
        ),
        (
            json!({"StringEquals": {"s3:prefix": "a"}, "Bool": {"aws:SecureTransport": true}}),
            vec![("s3:prefix", "a"), ("aws:SecureTransport", "false")],
            false,
        ),
    ] {
        assert_eq!(condition_holds(condition.clone(), &known), holds, "{condition} with {known:?}");
    }
}

#[test]
fn absent_keys_and_escaped_characters_compare_as_documented() {
    for (condition, known, holds) in [
        (json!({"ForAnyValue:StringEquals": {"s3:RequestObjectTagKeys": "a"}}), vec![], false),
        (json!({"ForAnyValue:StringNotEquals": {"s3:RequestObjectTagKeys": "a"}}), vec![], false),
        (json!({"ForAllValues:StringNotEquals": {"s3:RequestObjectTagKeys": "a"}}), vec![], true),
        (json!({"ForAnyValue:StringNotEqualsIfExists": {"s3:RequestObjectTagKeys": "a"}}), vec![], true),
        (json!({"StringLike": {"s3:prefix": "a${*}${?}${$}"}}), vec![("s3:prefix", "a*?$")], true),
        (json!({"StringLike": {"s3:prefix": "a${*}${?}${$}"}}), vec![("s3:prefix", "abc$")], false),
        (json!({"StringEquals": {"s3:prefix": "${*}"}}), vec![("s3:prefix", "*")], true),
        (
            json!({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:user/${*}"}}),
            vec![("aws:PrincipalArn", "arn:aws:iam::1:user/alice")],
            false,
        ),
    ] {
        assert_eq!(condition_holds(condition.clone(), &known), holds, "{condition} with {known:?}");
    }
}

#[test]
fn variables_stand_for_the_requests_values_and_never_for_wildcards() {
    let policy = of(json!([{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",
                            "Resource": "arn:aws:s3:::bkt/home/${aws:username}/*"}]));
    let ask =
        |name: &str, key: &str| decide(&policy, None, "s3:GetObject", key, &facts(&[("aws:username", name)]));
    assert_eq!(ask("alice", "bkt/home/alice/x"), Decision::Allow);
    assert_eq!(ask("alice", "bkt/home/bob/x"), Decision::Silent);
    assert_eq!(ask("*", "bkt/home/bob/x"), Decision::Silent);
    assert_eq!(ask("*", "bkt/home/*/x"), Decision::Allow);
    assert_eq!(decide(&policy, None, "s3:GetObject", "bkt/home//x", &Facts::default()), Decision::Silent);
}

#[test]
fn what_cannot_be_carried_out_is_refused() {
    let good = json!({"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::bkt/*"});
    assert!(parse(&json!({"Statement": [good]})).is_ok());
    for (element, value) in [
        ("Effect", json!("Maybe")),
        ("Principal", json!("alice*")),
        ("Principal", json!({"AWS": "a*"})),
        ("Principal", json!({})),
        ("Action", json!("s3:Nonsense")),
        ("Action", json!("ec2:*")),
        ("Action", json!([])),
        ("Resource", json!("arn:aws:s3:::other/*")),
        ("Resource", json!("*")),
        ("NotAction", json!("s3:*")),
        ("Condition", json!({"StringMatches": {"s3:prefix": "a"}})),
        ("Condition", json!({"StringEquals": {"s3:nonsense": "a"}})),
        ("Condition", json!({"NumericEquals": {"s3:max-keys": "many"}})),
        ("Condition", json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/40"}})),
        ("Condtion", json!({})),
    ] {
        let mut statement = good.clone();
        statement[element] = value.clone();
        assert!(parse(&json!({"Statement": [statement]})).is_err(), "{element}: {value}");
    }
    for element in ["Effect", "Principal", "Action", "Resource"] {
        let mut statement = good.clone();
        statement.as_object_mut().unwrap().remove(element);
        assert!(parse(&json!({"Statement": [statement]})).is_err(), "without {element}");
    }
    for document in [
        json!([]),
        json!({}),
        json!({"Statement": []}),
        json!({"Version": "2020-01-01", "Statement": [good]}),
    ] {
        assert!(parse(&document).is_err(), "{document}");
    }
    let mut not_principal = good.clone();
    not_principal.as_object_mut().unwrap().remove("Principal");
    not_principal["NotPrincipal"] = json!({"AWS": "alice"});
    assert_eq!(parse(&json!({"Statement": [not_principal]})), Err(PolicyError::AllowNotPrincipal));
    let long = format!("{{\"Id\":\"{}\"}}", "x".repeat(21_000));
    assert_eq!(Policy::parse(&long, Scope::Bucket("bkt")), Err(PolicyError::TooLong));
}

#[test]
fn what_is_documented_is_taken() {
    let good = json!({"Effect": "Deny", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::bkt/*"});
    for action in ["s3:ReplicateDelete", "s3:ReplicateTags", "s3:PutInventoryConfiguration", "s3:TagResource"]
    {
        let mut statement = good.clone();
        statement["Action"] = json!([action, "s3:GetObject"]);
        assert!(parse(&json!({"Statement": statement})).is_ok(), "{action}");
    }
    for condition in [
        json!({"StringNotEquals": {"aws:SourceVpce": "vpce-1"}}),
        json!({"StringEquals": {"aws:sourceVpc": "vpc-1", "aws:PrincipalTag/team": "a"}}),
        json!({"NumericLessThan": {"s3:TlsVersion": 1.2}}),
        json!({"BoolIfExists": {"aws:PrincipalIsAWSService": "false"}}),
        json!({"StringEquals": {"s3:LocationConstraint": "a", "s3:x-amz-object-ownership": "a"}}),
        json!({"StringNotEquals": {"aws:PrincipalOrgID": "o-1"}, "Null": {"aws:MultiFactorAuthAge": true}}),
    ] {
        let mut statement = good.clone();
        statement["Condition"] = condition.clone();
        assert!(parse(&json!({"Statement": statement})).is_ok(), "{condition}");
    }
    // From elsewhere than the endpoint is from elsewhere.
    let elsewhere = |operator: &str| {
        let mut statement = good.clone();
        statement["Condition"] = json!({operator: {"aws:SourceVpce": "vpce-1"}});
        decide(&of(statement), None, "s3:GetObject", "bkt/k", &Facts::default())
    };
    assert_eq!(elsewhere("StringNotEquals"), Decision::Deny);
    assert_eq!(elsewhere("StringEquals"), Decision::Silent);
}

#[test]
fn a_policy_asks_for_the_keys_of_its_conditions_and_variables() {
    let asks = |resource: &str, condition: Value| {
        let statement = json!({"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Condition": condition,
                               "Resource": format!("arn:aws:s3:::bkt/{resource}")});
        of(statement).asks_for("s3:RequestObjectTag")
    };
    assert!(asks("*", json!({"StringEquals": {"S3:requestobjecttagkeys": "a"}})));
    assert!(asks("*", json!({"StringEquals": {"s3:prefix": "x${s3:RequestObjectTag/a}"}})));
    assert!(asks("${aws:username}/${s3:RequestObjectTag/a}", json!({})));
    assert!(!asks("${aws:username}/s3:RequestObjectTag", json!({"StringEquals": {"s3:prefix": "a"}})));
}

#[test]
fn a_policy_is_public_unless_who_or_where_is_fixed() {
    let public = |condition: Value| is_public(&with_condition(condition));
    assert!(public(json!({})));
    assert!(public(json!({"StringEquals": {"s3:prefix": "a"}})));
    assert!(public(json!({"IpAddress": {"aws:SourceIp": "0.0.0.0/1"}})));
    assert!(public(json!({"StringLike": {"aws:userid": "*"}})));
    assert!(public(json!({"NotIpAddress": {"aws:SourceIp": "10.0.0.0/8"}})));
    assert!(!public(json!({"IpAddress": {"aws:SourceIp": "10.0.0.0/32"}})));
    assert!(!public(json!({"StringEquals": {"aws:userid": "a11ce"}})));
    assert!(!public(json!({"StringEquals": {"aws:SourceVpce": "vpce-1"}})));
    assert!(public(json!({"StringNotEquals": {"aws:SourceVpce": "vpce-1"}})));
    let statement = |effect: &str, principal: Value| {
        is_public(&of(json!({"Effect": effect, "Principal": principal, "Action": "s3:GetObject",
                             "Resource": "arn:aws:s3:::bkt/*"})))
    };
    assert!(!statement("Allow", json!({"AWS": "arn:aws:iam::x:root"})));
    assert!(statement("Allow", json!({"AWS": ["alice", "*"]})));
    assert!(!statement("Deny", json!("*")));
}

/// The obvious matcher.
fn oracle(pattern: &[char], text: &[char]) -> bool {
    match (pattern.first(), text.first()) {
        (None, None) => true,
        (Some('*'), _) => oracle(&pattern[1..], text) || (!text.is_empty() && oracle(pattern, &text[1..])),
        (Some('?'), Some(_)) => oracle(&pattern[1..], &text[1..]),
        (Some(p), Some(t)) => p == t && oracle(&pattern[1..], &text[1..]),
        (Some(_) | None, _) => false,
    }
}

fn any_statement() -> impl Strategy<Value = Value> {
    let effect = prop_oneof![Just("Allow"), Just("Deny")];
    let principal =
        prop_oneof![Just(json!("*")), Just(json!({"AWS": "alice"})), Just(json!({"AWS": ["bob"]}))];
    let action = prop_oneof![Just("s3:*"), Just("s3:Get*"), Just("s3:GetObject"), Just("s3:PutObject")];
    let resource =
        prop_oneof![Just("arn:aws:s3:::bkt/*"), Just("arn:aws:s3:::bkt"), Just("arn:aws:s3:::bkt/a?")];
    let condition = prop_oneof![
        Just(json!({})),
        Just(json!({"StringEquals": {"s3:prefix": "a"}})),
        Just(json!({"StringNotEquals": {"s3:prefix": "a"}})),
    ];
    (effect, principal, action, resource, condition).prop_map(
        |(effect, principal, action, resource, condition)| {
            json!({"Effect": effect, "Principal": principal, "Action": action, "Resource": resource,
               "Condition": condition})
        },
    )
}

/// An action and a resource, whether alice asks, and whether a fact is known.
fn any_request() -> impl Strategy<Value = (&'static str, &'static str, bool, bool)> {
    let action = prop_oneof![Just("s3:GetObject"), Just("s3:PutObject"), Just("s3:DeleteObject")];
    let resource = prop_oneof![Just("bkt"), Just("bkt/ab"), Just("bkt/k")];
    (action, resource, any::<bool>(), any::<bool>())
}

fn ask(policy: &Policy, (action, resource, signed, known): (&str, &str, bool, bool)) -> Decision {
    let known = if known { facts(&[("s3:prefix", "a")]) } else { Facts::default() };
    decide(policy, signed.then(alice).as_ref(), action, resource, &known)
}

proptest! {
    #[test]
    fn wildcards_match_as_the_obvious_matcher(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        prop_assert_eq!(matches(&pattern, &text), oracle(&chars(&pattern), &chars(&text)));
    }

    #[test]
    fn what_stands_for_itself_matches_itself_only(value in "[ab*?$]{0,6}", text in "[ab*?$]{0,6}") {
        let escaped: String = value.chars().map(|c| match c {
            '*' | '?' | '$' => format!("${{{c}}}"),
            c => c.to_string(),
        }).collect();
        for wanted in [escaped.as_str(), "${s3:prefix}"] {
            let facts = facts(&[("s3:prefix", &value), ("s3:delimiter", &text)]);
            let policy = with_condition(json!({"StringLike": {"s3:delimiter": wanted}}));
            let said = decide(&policy, None, "s3:GetObject", "bkt/k", &facts);
            prop_assert_eq!(said == Decision::Allow, value == text, "{}", wanted);
        }
    }

    #[test]
    fn a_policy_is_the_sum_of_its_statements(statements in prop::collection::vec(any_statement(), 1..6),
                                             request in any_request()) {
        let each: Vec<Decision> =
            statements.iter().map(|statement| ask(&of(json!([statement])), request)).collect();
        let expected = if each.contains(&Decision::Deny) {
            Decision::Deny
        } else if each.contains(&Decision::Allow) {
            Decision::Allow
        } else {
            Decision::Silent
        };
        prop_assert_eq!(ask(&of(json!(statements)), request), expected);
        let reversed: Vec<_> = statements.into_iter().rev().collect();
        prop_assert_eq!(ask(&of(json!(reversed)), request), expected);
    }

    #[test]
    fn what_is_not_public_allows_nothing_to_the_anonymous(
        statements in prop::collection::vec(any_statement(), 1..6), request in any_request(),
    ) {
        let policy = of(json!(statements));
        let (action, resource, _, known) = request;
        if !is_public(&policy) {
            prop_assert_ne!(ask(&policy, (action, resource, false, known)), Decision::Allow);
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,60}", key in "[A-Za-z:{}$*]{0,20}") {
        let _ = Policy::parse(&text, Scope::Bucket("bkt"));
        let _ = parse(&json!({"Statement": {"Effect": "Allow", "Principal": "*", "Action": "*",
                                            "Resource": format!("arn:aws:s3:::bkt/{key}")}}))
            .map(|policy| decide(&policy, None, "s3:GetObject", "bkt/k", &Facts::default()));
    }
}
