//! The shape of the workspace: which crate may see which, and how large a file may grow.

mod arrows;

use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

use crate::arrows::TESTKIT;

/// What a person keeps in mind of one file.
const MAX_FILE_LINES: usize = 700;

/// Comments and strings too, which rustfmt leaves as they are.
const MAX_COLUMNS: usize = 100;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// A file under two module paths is compiled twice and silenced where one of them uses less of it.
#[test]
fn no_module_is_pulled_in_by_its_path() {
    let attribute = ["#[", "path ="].concat();
    for (path, text) in texts() {
        assert!(
            !text.contains(&attribute),
            "{}: what tests share belongs in `{TESTKIT}`",
            path.display()
        );
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// Every Rust file of the workspace and its text.
fn texts() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for folder in [
        "crates", "training", "serving", "mpc", "evals", "fuzz", "benches",
    ] {
        sources(&root().join(folder), &mut files);
    }
    // There are hundreds; less means that the wrong folder was read.
    assert!(files.len() > 20, "the sources were not found");
    files
        .into_iter()
        .map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()))
        .collect()
}

#[test]
fn files_stay_readable_and_modules_have_names() {
    for (path, text) in texts() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        for shapeless in [
            "mod.rs",
            "utils.rs",
            "util.rs",
            "common.rs",
            "helpers.rs",
            "misc.rs",
        ] {
            assert_ne!(
                name,
                shapeless,
                "{}: name the module by what it is about",
                path.display()
            );
        }
        let lines = text.lines().count();
        assert!(
            lines <= MAX_FILE_LINES,
            "{} has {lines} lines, {MAX_FILE_LINES} are the limit",
            path.display()
        );
    }
}

#[test]
fn no_line_is_over_100_columns() {
    for (path, text) in texts() {
        for (at, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            assert!(
                columns <= MAX_COLUMNS,
                "{}:{} has {columns} columns, {MAX_COLUMNS} are the limit",
                path.display(),
                at + 1
            );
        }
    }
}

/// A longer one does several things that have names.
const MAX_FUNCTION_LINES: usize = 70;

#[test]
fn no_function_is_over_70_lines() {
    let mut functions = 0;
    for (path, text) in texts() {
        for (at, name, lines) in functions_of(&text) {
            functions += 1;
            assert!(
                lines <= MAX_FUNCTION_LINES,
                "{}:{at}: `{name}` has {lines} lines, {MAX_FUNCTION_LINES} are the limit",
                path.display()
            );
        }
    }
    // There are more than 4,000; less means that they were not seen.
    assert!(
        functions > 3_000,
        "the functions were not found: {functions}"
    );
}

#[test]
fn a_long_function_is_seen_with_its_name() {
    let long = |lines: usize| "        work();\n".repeat(lines);
    let text = format!(
        "impl A {{\n    pub(super) async fn of(\n        a: u8,\n    ) -> u8 {{\n{}    }}\n}}\n\n\
         trait B {{\n    fn declared(&self);\n}}\n\nconst fn empty() {{}}\n",
        long(71)
    );
    let found: Vec<_> = functions_of(&text).collect();
    assert_eq!(found, [(2, "of", 71)]);
}

/// Line, name and lines of body of each function, as rustfmt lays them out: a body ends at the
/// first brace that stands as far to the right as its function. Those of one line are left out.
fn functions_of(text: &str) -> impl Iterator<Item = (usize, &str, usize)> {
    const BEFORE: [&str; 6] = ["pub", "const", "async", "unsafe", "extern", "default"];
    let lines: Vec<&str> = text.lines().collect();
    let found = (0..lines.len()).filter_map(move |at| {
        let code = lines[at].trim_start();
        let (before, rest) = code.split_once("fn ")?;
        let is_function = before
            .split_whitespace()
            .all(|word| BEFORE.contains(&word) || word.starts_with("pub(") || word == "\"C\"");
        let is_end = |line: &&str| line.ends_with(['{', ';', '}']);
        let head = at + lines[at..].iter().position(is_end)?;
        if !is_function || !lines[head].ends_with('{') {
            return None;
        }
        let end = format!("{}}}", &lines[at][..lines[at].len() - code.len()]);
        let body = lines[head..].iter().position(|line| *line == end)? - 1;
        Some((at + 1, rest.split(['(', '<']).next()?, body))
    });
    found.collect::<Vec<_>>().into_iter()
}

/// Per 1,000 lines: `let (a, b) = (x, y);` is for values that are one thing or change places.
const MAX_TUPLE_LETS: f64 = 1.5;

#[test]
fn unrelated_values_are_bound_one_by_one() {
    let mut lets = TupleLets::default();
    let mut lines = 0;
    for (path, text) in texts() {
        let before = lets.0;
        let file = syn::parse_file(&text);
        lets.visit_file(&file.unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        lines += text.lines().count();
        if lets.0 > before {
            println!("{}: {}", path.display(), lets.0 - before);
        }
    }
    let per_1000 = lets.0 as f64 * 1000.0 / lines as f64;
    assert!(
        per_1000 < MAX_TUPLE_LETS,
        "{per_1000:.2} tuples of a tuple per 1,000 lines"
    );
}

#[test]
fn tuple_lets_are_seen_wherever_they_stand() {
    let text = "fn f() { let (a, mut b): (u8, u8) = (1, 2); g(|| { let (c, d) = (a, b); }); \
                let (e, f) = pair(); let g = (a, b); }";
    let mut lets = TupleLets::default();
    lets.visit_file(&syn::parse_file(text).unwrap());
    assert_eq!(lets.0, 2);
}

/// Counts tuple patterns that are bound to a tuple of expressions.
#[derive(Default)]
struct TupleLets(usize);

impl<'ast> Visit<'ast> for TupleLets {
    fn visit_local(&mut self, local: &'ast syn::Local) {
        let pattern = match &local.pat {
            syn::Pat::Type(typed) => &*typed.pat,
            pattern => pattern,
        };
        let value = local.init.as_ref().map(|init| &*init.expr);
        if let (syn::Pat::Tuple(_), Some(syn::Expr::Tuple(_))) = (pattern, value) {
            self.0 += 1;
        }
        visit::visit_local(self, local);
    }
}

/// A longer name says two things, or says how.
const MAX_TEST_NAME: usize = 60;

/// Whoever audits a protocol finds its steps named: two percent is near what the field's own
/// engines have (mpz 2.2, libprio 4.2).
#[test]
fn steps_of_the_engine_are_named_in_comments() {
    let mut comments = 0;
    let mut lines = 0;
    for (path, text) in texts() {
        let place = path.to_string_lossy();
        if place.contains("/mpc/src/") && !place.contains("tests") {
            lines += text.lines().count();
            let inner = |line: &&str| {
                let line = line.trim_start();
                line.starts_with("// ") && !line.starts_with("// SAFETY")
            };
            comments += text.lines().filter(inner).count();
        }
    }
    let share = comments as f64 / lines as f64;
    assert!(
        share >= 0.02,
        "{comments} comments in {lines} lines of the engine"
    );
}

#[test]
fn names_of_tests_are_short() {
    let mut tests = 0;
    for (path, text) in texts() {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (at, _) in lines.iter().enumerate().filter(|(_, line)| is_test(line)) {
            let function = lines[at..].iter().find_map(|line| line.split_once("fn "));
            let (_, rest) = function.expect("an attribute stands before a function");
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            tests += 1;
            assert!(
                name.len() <= MAX_TEST_NAME,
                "{}:{}: `{name}` has {} characters, {MAX_TEST_NAME} are the limit",
                path.display(),
                at + 1,
                name.len()
            );
        }
    }
    // There are more than 400; less means that the attributes were not seen.
    assert!(tests > 300, "the tests were not found: {tests}");
}

fn is_test(line: &str) -> bool {
    line == "#[test]" || line.starts_with("#[tokio::test")
}

#[test]
fn every_file_says_what_it_is_for() {
    for (path, text) in texts() {
        let comment = text.lines().take_while(|line| line.starts_with("//!"));
        let words: usize = comment
            .map(|line| line.split_whitespace().count() - 1)
            .sum();
        assert!(
            words >= 2,
            "{}: begin with a module comment: what is in this file, and why",
            path.display()
        );
    }
}

/// Stable rustfmt sorts within a block of imports but does not form the blocks.
#[test]
fn imports_stand_in_blocks_of_std_external_and_crate() {
    for (path, text) in texts() {
        if let Some(problem) = misplaced_import(&text) {
            panic!("{}:{problem}", path.display());
        }
    }
}

#[test]
fn misplaced_imports_are_found() {
    let good =
        "use std::{\n    fs,\n    io,\n};\n\nuse serde::Serialize;\n\nuse super::a;\n\nfn f() {}\n";
    assert_eq!(misplaced_import(good), None);
    for (bad, line) in [
        ("use serde::Serialize;\n\nuse std::fs;\n", "3: "),
        ("use std::fs;\nuse serde::Serialize;\n", "2: "),
        ("use crate::a;\n\n#[cfg(test)]\nuse crate::b;\n", "4: "),
        ("mod a {\n    use super::b;\n    use std::fs;\n}\n", "3: "),
    ] {
        let found = misplaced_import(bad).unwrap_or_default();
        assert!(found.starts_with(line), "{bad:?}: {found:?}");
    }
}

/// Line and fault of the first import that is in another block than its kind's.
fn misplaced_import(text: &str) -> Option<String> {
    // The kind of the import before, and whether a blank line has followed it.
    let mut before: Option<(usize, bool)> = None;
    let mut inside = false;
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if inside {
            inside = !line.ends_with(';');
            continue;
        }
        let path = line.strip_prefix("pub ").or_else(|| {
            let (_, rest) = line.strip_prefix("pub(")?.split_once(") ")?;
            Some(rest)
        });
        let Some(path) = path.unwrap_or(line).strip_prefix("use ") else {
            let between = line.is_empty() || line.starts_with("//") || line.starts_with("#[");
            before = before
                .filter(|_| between)
                .map(|(kind, blank)| (kind, blank || line.is_empty()));
            continue;
        };
        inside = !line.ends_with(';');
        let kind = match path.split([':', ' ', ';']).next() {
            Some("std" | "core" | "alloc") => 0,
            Some("self" | "super" | "crate") => 2,
            _ => 1,
        };
        match before {
            Some((last, false)) if last != kind => {
                return Some(format!("{}: a blank line belongs before `{line}`", at + 1));
            }
            Some((last, true)) if last >= kind => {
                return Some(format!("{}: `{line}` belongs in a block above", at + 1));
            }
            _ => before = Some((kind, false)),
        }
    }
    None
}
