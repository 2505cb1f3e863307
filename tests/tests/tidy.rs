//! The shape of the code, checked: file and function sizes, vendor fences, import directions, module docs and
//! words that have no place in a finished tree. `STYLE` in CONTRIBUTING.md gives the reasons.

use std::fs;
use std::path::{Path, PathBuf};

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 70;
const MAX_PARAMETERS: usize = 6;
const DOCS_FROM_LINES: usize = 150;

/// A crate or path that only some places may name.
struct Fence {
    needle: &'static str,
    allowed: &'static [&'static str],
    reason: &'static str,
}

const FENCES: &[Fence] = &[
    Fence {
        needle: "tonic",
        allowed: &["common/src/rpc", "common/src/proto", "common/build.rs", "storage-node/src/rpc"],
        reason: "gRPC stays in the transport and rpc modules",
    },
    Fence {
        needle: "etcd_client",
        allowed: &["common/src/coordination/etcd"],
        reason: "the etcd client stays behind the coordinator trait",
    },
    Fence {
        needle: "reed_solomon_erasure",
        allowed: &["common/src/erasure", "common/benches"],
        reason: "one file decides the codec",
    },
    Fence { needle: "rusty_erasure", allowed: &["common/src/erasure"], reason: "one file decides the codec" },
    Fence {
        needle: "redb",
        allowed: &["storage-node/src/index"],
        reason: "the index engine is a replaceable view",
    },
    Fence { needle: "quick_xml", allowed: &["gateway/src/s3", "tests/"], reason: "XML stops at the S3 edge" },
    Fence {
        needle: "std::fs",
        allowed: &[
            "storage-node/src/drive",
            "storage-node/src/journal",
            "storage-node/src/shards",
            "storage-node/src/index",
            "storage-node/benches",
            "config",
            "common/src/rpc",
            "common/src/security",
            "cli/",
            "tests/",
            "build.rs",
        ],
        reason: "files are the drive layer's business",
    },
];

/// `from` must not name `to`.
const DIRECTIONS: &[(&str, &str)] = &[
    ("common/src", "coffer_gateway"),
    ("common/src", "coffer_storage_node"),
    ("gateway/src", "coffer_storage_node"),
    ("storage-node/src", "coffer_gateway"),
    ("gateway/src/object", "crate::s3"),
    ("gateway/src/object", "http::"),
    ("gateway/src/object", "axum"),
    ("gateway/src/policy", "crate::s3"),
    ("gateway/src/policy", "crate::object"),
    ("gateway/src/policy", "tokio"),
    ("gateway/src/policy", "async fn"),
    ("common/src/protocol", "tokio"),
    ("common/src/protocol", "async fn"),
    ("common/src/layout", "tokio"),
    ("common/src/erasure", "tokio"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate has a parent").to_owned()
}

/// Every Rust source of the workspace, as (path from the root, text).
fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut pending: Vec<PathBuf> =
        ["common", "gateway", "storage-node", "cli", "tests"].iter().map(|dir| root.join(dir)).collect();
    let mut found = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a source folder is readable");
            pending.extend(entries.map(|entry| entry.expect("a folder entry is readable").path()));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let name = path.strip_prefix(&root).expect("it is below the root").display().to_string();
            found.push((name, fs::read_to_string(&path).expect("a source is UTF-8")));
        }
    }
    found.sort();
    assert!(found.len() > 10, "tidy found only {} sources: it looks in the wrong place", found.len());
    found
}

fn is_test(path: &str) -> bool {
    path.starts_with("tests/")
        || path.contains("/tests")
        || path.contains("/benches/")
        || path.contains("/examples/")
}

/// The source without its `#[cfg(test)] mod tests { … }` tail.
fn production_part(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests {").map_or(text, |at| &text[..at])
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn files_stay_under_the_limit() {
    let problems: Vec<String> = sources()
        .iter()
        .filter(|(path, _)| !is_test(path))
        .map(|(path, text)| (path, production_part(text).lines().count()))
        .filter(|(_, lines)| *lines > MAX_FILE_LINES)
        .map(|(path, lines)| format!("{path}: {lines} lines; split it by idea (limit {MAX_FILE_LINES})"))
        .collect();
    assert_none(&problems);
}

#[test]
fn long_unit_tests_sit_in_a_sibling_file() {
    let problems: Vec<String> = sources()
        .iter()
        .filter(|(path, _)| !is_test(path))
        .map(|(path, text)| (path, text.lines().count() - production_part(text).lines().count()))
        .filter(|(_, lines)| *lines > DOCS_FROM_LINES)
        .map(|(path, lines)| format!("{path}: {lines} lines of tests; move them to a sibling tests.rs"))
        .collect();
    assert_none(&problems);
}

struct Functions<'a> {
    path: &'a str,
    problems: Vec<String>,
}

impl Functions<'_> {
    fn check(&mut self, signature: &syn::Signature, attributes: &[syn::Attribute], span: proc_macro2::Span) {
        let excused = attributes.iter().any(|attribute| attribute.path().is_ident("expect"));
        let lines = span.end().line - span.start().line + 1;
        let name = &signature.ident;
        if lines > MAX_FUNCTION_LINES && !excused {
            self.problems
                .push(format!("{}: fn {name} has {lines} lines (limit {MAX_FUNCTION_LINES})", self.path));
        }
        if signature.inputs.len() > MAX_PARAMETERS && !excused {
            self.problems.push(format!("{}: fn {name} has {} parameters", self.path, signature.inputs.len()));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.check(&function.sig, &function.attrs, function.block.span());
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.check(&function.sig, &function.attrs, function.block.span());
        visit::visit_impl_item_fn(self, function);
    }
}

#[test]
fn functions_stay_under_the_limit() {
    let mut problems = Vec::new();
    for (path, text) in sources().iter().filter(|(path, _)| !is_test(path)) {
        let file = syn::parse_file(production_part(text)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut functions = Functions { path, problems: Vec::new() };
        functions.visit_file(&file);
        problems.append(&mut functions.problems);
    }
    assert_none(&problems);
}

/// Whether a line of code (not a comment) names the needle as a path or crate.
fn names(line: &str, needle: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices(needle).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + needle.len()..].chars().next();
        let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !word(before) && (needle.ends_with(':') || !word(after)) && !code[..at].contains('"')
    })
}

#[test]
fn vendors_stay_behind_their_fences() {
    let mut problems = Vec::new();
    for (path, text) in sources().iter().filter(|(path, _)| path != "tests/tests/tidy.rs") {
        for fence in FENCES {
            let allowed = fence.allowed.iter().any(|allowed| path.contains(allowed));
            if allowed || (fence.needle == "std::fs" && is_test(path)) {
                continue;
            }
            for (number, line) in production_part(text).lines().enumerate() {
                if names(line, fence.needle) {
                    problems.push(format!("{path}:{}: `{}`: {}", number + 1, fence.needle, fence.reason));
                }
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn imports_point_inwards() {
    let mut problems = Vec::new();
    for (path, text) in sources().iter().filter(|(path, _)| !is_test(path)) {
        for (from, to) in DIRECTIONS {
            if !path.starts_with(from) {
                continue;
            }
            for (number, line) in production_part(text).lines().enumerate() {
                if names(line, to) {
                    problems.push(format!("{path}:{}: {from} must not name `{to}`", number + 1));
                }
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn modules_say_what_they_own() {
    let problems: Vec<String> = sources()
        .iter()
        .filter(|(path, text)| path.ends_with("/mod.rs") || text.lines().count() > DOCS_FROM_LINES)
        .filter(|(path, text)| !path.ends_with("tests.rs") && !text.trim_start().starts_with("//!"))
        .map(|(path, _)| format!("{path}: open it with `//!`: what it owns, what it never does, the flow"))
        .collect();
    assert_none(&problems);
}

#[test]
fn nothing_is_left_unfinished() {
    let words = ["todo!(", "unimplemented!(", "FIXME", "XXX:", "TODO", "#[ignore]", "dbg!("];
    let mut problems = Vec::new();
    for (path, text) in sources().iter().filter(|(path, _)| path != "tests/tests/tidy.rs") {
        for (number, line) in text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(*word)) {
                problems.push(format!("{path}:{}: `{word}`", number + 1));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn the_fences_catch_what_they_are_for() {
    assert!(names("use tonic::transport::Channel;", "tonic"));
    assert!(names("let db = redb::Database::open(path);", "redb"));
    assert!(!names("// tonic is fenced", "tonic"));
    assert!(!names("let tonics = 1;", "tonic"));
    assert!(names("use http::Uri;", "http::"));
    assert!(!names("use axum_http::Uri;", "http::"));
}

#[test]
fn one_version_of_the_vendors_that_must_agree_and_no_second_tls_provider() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("the lock file is committed");
    let count = |name: &str| lock.matches(&format!("name = \"{name}\"\n")).count();
    for vendor in ["tonic", "prost", "axum", "hyper", "rustls", "tokio"] {
        assert_eq!(count(vendor), 1, "{vendor} must be in the lock once");
    }
    for banned in ["openssl-sys", "openssl", "native-tls"] {
        assert_eq!(count(banned), 0, "{banned} must not be in the lock");
    }
}
