use proptest::prelude::*;

use super::*;

fn parse(arguments: &[&str]) -> Result<Endpoints, EndpointError> {
    Endpoints::parse(arguments)
}

fn shown(arguments: &[&str]) -> Vec<String> {
    match parse(arguments).unwrap() {
        Endpoints::Standalone(paths) => paths.iter().map(|path| path.display().to_string()).collect(),
        Endpoints::Distributed(endpoints) => endpoints.iter().map(ToString::to_string).collect(),
    }
}

fn refusal(arguments: &[&str]) -> String {
    parse(arguments).unwrap_err().to_string()
}

#[test]
fn ranges_expand_as_documented() {
    let check = |argument: &str, words: &[&str]| assert_eq!(expand(argument).unwrap(), words, "{argument}");
    check("/data", &["/data"]);
    check("/data{1...3}", &["/data1", "/data2", "/data3"]);
    check("/data{1...1}", &["/data1"]);
    check("/d{8...11}x", &["/d8x", "/d9x", "/d10x", "/d11x"]);
    check("/d{08...11}", &["/d08", "/d09", "/d10", "/d11"]);
    check("/d{8...011}", &["/d008", "/d009", "/d010", "/d011"]);
    check("/d{0...1}", &["/d0", "/d1"]);
    check("/d{9...c}", &["/d9", "/da", "/db", "/dc"]);
    check("/d{0E...11}", &["/d0E", "/d0F", "/d10", "/d11"]);
    check("{1...2}{a...b}", &["1a", "1b", "2a", "2b"]);
    check("h{1...2}:90{00...01}/x", &["h1:9000/x", "h1:9001/x", "h2:9000/x", "h2:9001/x"]);
    check("", &[""]);
}

#[test]
fn braces_that_are_no_range_are_refused_with_the_right_form() {
    let check = |argument: &str, says: &str| assert_eq!(expand(argument).unwrap_err().to_string(), says);
    check(
        "/data{1..4}",
        "`/data{1..4}` has two dots: `{1..4}` is for the shell, which did not expand it; write `{1...4}`",
    );
    check("/d{4...1}", "`{4...1}` in `/d{4...1}` runs backwards: write `{1...4}`");
    check("/d{a,b}", "`{a,b}` in `/d{a,b}` is no range: write `{1...4}`, or name the drives one by one");
    for argument in
        ["/d{}", "/d{1....4}", "/d{1...}", "/d{...4}", "/d{x...z}", "/d{-1...4}", "/d{1.4}", "/d{x..y}"]
    {
        assert!(matches!(expand(argument), Err(ExpandError::NoRange { .. })), "{argument}");
    }
    for argument in ["/d{1...4", "/d1...4}", "/d{{1...4}}", "/d{1...4}}"] {
        assert!(matches!(expand(argument), Err(ExpandError::Unbalanced { .. })), "{argument}");
    }
    for argument in ["/d{1...65537}", "/d{1...999999999999999}", "/d{1...300}{1...300}"] {
        assert!(matches!(expand(argument), Err(ExpandError::TooMany { .. })), "{argument}");
    }
}

#[test]
fn folders_are_standalone() {
    assert_eq!(shown(&["/data{1...2}", "more//x/./y/"]), ["/data1", "/data2", "more/x/y"]);
    assert_eq!(shown(&["./"]), ["."]);
    assert!(matches!(parse(&["/data"]), Ok(Endpoints::Standalone(_))));
}

#[test]
fn urls_are_distributed_with_the_default_port() {
    assert_eq!(
        shown(&["http://192.168.1.1{1...2}:9000/export1", "HTTP://Node-3/mnt/a/"]),
        ["http://192.168.1.11:9000/export1", "http://192.168.1.12:9000/export1", "http://node-3:9100/mnt/a"]
    );
    assert_eq!(
        shown(&["https://[::1]:99/d", "https://[fe80::{a...b}]/d"]),
        ["https://[::1]:99/d", "https://[fe80::a]:9100/d", "https://[fe80::b]:9100/d"]
    );
}

#[test]
fn drives_are_grouped_by_node_in_the_order_given() {
    let nodes = parse(&["http://b/d{1...2}", "http://a/d1", "http://b/d3"]).unwrap().nodes();
    let summary: Vec<_> = nodes.iter().map(|(address, drives)| (address.as_str(), drives.len())).collect();
    assert_eq!(summary, [("b:9100", 3), ("a:9100", 1)]);
    assert_eq!(parse(&["/d"]).unwrap().nodes(), []);
}

#[test]
fn refusals_say_what_to_do() {
    assert!(refusal(&[]).contains("/data{1...4}"));
    assert!(refusal(&[""]).contains("empty"));
    assert_eq!(
        refusal(&["/data", "http://a/d"]),
        "`/data` is a folder and `http://a/d` is a URL: give only folders (one server on its own) or only URLs (a cluster)"
    );
    assert_eq!(refusal(&["/d1", "/d{1...2}/"]), "drive `/d1` is named twice");
    assert_eq!(refusal(&["http://a/d", "http://A:9100//d"]), "drive `http://a:9100/d` is named twice");
    assert!(refusal(&["http://a/d", "https://b/d"]).contains("http or https for all"));
    assert!(refusal(&["a:9100/d"]).contains("needs `http://`"));
    assert!(refusal(&["http://a/data{1..4}"]).contains("write `{1...4}`"));
}

#[test]
fn bad_urls_name_what_is_wrong() {
    let check =
        |url: &str, reason: &str| assert_eq!(refusal(&[url]), format!("`{url}` is no endpoint: {reason}"));
    check("ftp://a/d", "the scheme must be http or https");
    check("http:///d", "it names no host");
    check("http://:9100/d", "it names no host");
    check("http://a:0/d", "the port must be a number from 1 to 65535");
    check("http://a:65536/d", "the port must be a number from 1 to 65535");
    check("http://a:+1/d", "the port must be a number from 1 to 65535");
    check("http://a:/d", "the port must be a number from 1 to 65535");
    check("http://a", "it names no folder: add the path of the drive, for example `/data`");
    check("http://a//", "it names no folder: add the path of the drive, for example `/data`");
    check("http://a/d?x", "it must not have `?` or `#`");
    check("http://u@a/d", "it must not have a user name");
    check("http://a b/d", "the host has characters that no host name has");
    check("http://::1/d", "an IPv6 address stands in `[ ]`");
    check("http://[::1/d", "`[` without `]`");
    check("http://[host]/d", "only an IPv6 address stands in `[ ]`");
}

proptest! {
    #[test]
    fn decimal_ranges_count_as_people_do(start in 0..2000_u32, len in 0..300_u32, pad in 0..6_usize, tail in "[a-z/]{0,5}") {
        let end = start + len;
        let ends = (format!("{start:0pad$}"), format!("{end:0pad$}"));
        // One end that is padded has all numbers padded, to the longer end's width.
        let padded = [&ends.0, &ends.1].iter().any(|text| text.len() > 1 && text.starts_with('0'));
        let width = if padded { ends.0.len().max(ends.1.len()) } else { 0 };
        let expected: Vec<String> = (start..=end).map(|i| format!("/x{i:0width$}{tail}")).collect();
        prop_assert_eq!(expand(&format!("/x{{{}...{}}}{tail}", ends.0, ends.1)).unwrap(), expected);
    }

    #[test]
    fn hexadecimal_ranges_count_in_sixteens(start in 0..4000_u32, len in 0..300_u32) {
        let end = start + len;
        let texts = (format!("{start:x}"), format!("{end:x}"));
        let letters = [&texts.0, &texts.1].iter().any(|text| text.contains(|c: char| c.is_ascii_alphabetic()));
        prop_assume!(letters);
        let expected: Vec<String> = (start..=end).map(|i| format!("{i:x}")).collect();
        prop_assert_eq!(expand(&format!("{{{}...{}}}", texts.0, texts.1)).unwrap(), expected);
    }

    #[test]
    fn any_text_expands_or_is_refused(text in "[a-f0-9{}./:\\[\\]h,-]{0,24}") {
        if let Ok(words) = expand(&text) {
            let left = words.iter().find(|word| word.contains(['{', '}']));
            prop_assert_eq!(left, None);
        }
        let _ = parse(&[&text]);
        let _ = parse(&[&format!("http://{text}")]);
    }

    #[test]
    fn several_ranges_make_the_product(counts in proptest::collection::vec(1..6_u32, 0..4)) {
        let argument: String = counts.iter().map(|count| format!("-{{1...{count}}}")).collect();
        let words = expand(&argument).unwrap();
        prop_assert_eq!(words.len() as u32, counts.iter().product::<u32>());
        prop_assert!(words.is_sorted());
    }
}
