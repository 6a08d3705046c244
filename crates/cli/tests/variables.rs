//! A variable for every flag, `MARILL_<COMMAND>_<FLAG>`.

use std::process::Output;

use marill_testkit::processes;

fn marill(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = processes::marill();
    let scratch = tempfile::tempdir().unwrap();
    command.args(arguments).envs(variables.iter().copied());
    command
        .env("MARILL_STATE", scratch.path())
        .output()
        .unwrap()
}

fn complaint(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = marill(arguments, variables);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{text}");
    text
}

#[test]
fn a_flag_is_read_from_its_commands_variable() {
    let text = complaint(&["serve", "DIR"], &[("MARILL_SERVE_MAX_SESSIONS", "0")]);
    assert!(text.contains("'0' for '--max-sessions <N>'"), "{text}");
    let text = complaint(&["keys", "add", "a"], &[("MARILL_KEYS_ADD_TOKENS", "x")]);
    assert!(text.contains("'x' for '--tokens"), "{text}");
}

#[test]
fn a_flag_on_the_command_line_goes_before_its_variable() {
    let given = ["serve", "DIR", "--max-sessions", "-1"];
    let text = complaint(&given, &[("MARILL_SERVE_MAX_SESSIONS", "0")]);
    assert!(text.contains("-1") && !text.contains("'0'"), "{text}");
}

#[test]
fn a_switch_is_on_or_off_by_its_variable() {
    let said = |value| {
        let output = marill(&["doctor"], &[("MARILL_DOCTOR_JSON", value)]);
        String::from_utf8(output.stdout).unwrap().starts_with('{')
    };
    assert!(said("1") && said("true") && said("yes"));
    assert!(!said("0") && !said("false") && !said("no"));
    let text = complaint(&["doctor"], &[("MARILL_DOCTOR_JSON", "maybe")]);
    assert!(text.contains("'maybe' for '--json'"), "{text}");
}

#[test]
fn the_commands_own_variable_goes_before_a_shared_one() {
    let shared = ("MARILL_HOST", "nowhere");
    let text = complaint(&["dealer"], &[shared]);
    assert!(text.contains("'nowhere' for '--host <HOST>'"), "{text}");
    let own = ("MARILL_DEALER_HOST", "elsewhere");
    let text = complaint(&["dealer"], &[shared, own]);
    assert!(text.contains("'elsewhere' for '--host <HOST>'"), "{text}");
    // Of another command.
    let text = complaint(&["serve", "DIR"], &[shared, own]);
    assert!(text.contains("'nowhere' for '--host <HOST>'"), "{text}");
}

#[test]
fn a_variable_that_is_no_flag_is_refused_by_name() {
    let text = complaint(&["serve", "DIR"], &[("MARILL_SERVE_MAXSESSIONS", "3")]);
    let named = "`MARILL_SERVE_MAXSESSIONS`, and `marill serve` has no flag `--maxsessions`";
    assert!(text.contains(named), "{text}");
    // Variables of other commands and shared ones are none of its business.
    let others = [
        ("MARILL_DEALER_KEY", "FILE"),
        ("MARILL_DEALER_PORT", "8200"),
        ("MARILL_CHAT_MAXTOKENS", "3"),
    ];
    let output = marill(&["doctor"], &others);
    assert!(output.status.success());
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("man1");
    let output = marill(&["man", folder.to_str().unwrap()], &[]);
    assert!(output.status.success());
    let page = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    assert!(page("marill.1").contains("marill\\-serve(1)"));
    assert!(page("marill-serve.1").contains("\\-\\-max\\-sessions"));
    assert!(page("marill-keys-add.1").contains("\\-\\-tokens"));
    assert!(!folder.join("marill-help.1").exists());
    let text = complaint(&["man", "/dev/null/man1"], &[]);
    assert!(text.contains("`/dev/null/man1`"), "{text}");
}
