//! The gateway's page, run by Node.js where that is installed.

use std::{io::ErrorKind, path::Path, process::Command};

#[test]
fn the_page_sends_and_says_what_it_should() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut node = Command::new("node");
    node.arg(root.join("tests/page/page.mjs"))
        .arg(root.join("src/gateway/page"));
    match node.output() {
        Ok(output) => assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        ),
        // A machine that builds Marill needs no Node.js.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("not run: there is no `node`")
        }
        Err(error) => panic!("{error}"),
    }
}
