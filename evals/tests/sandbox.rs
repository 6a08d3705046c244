//! Programs that misbehave end themselves, not the machine.

use std::{
    net::TcpListener,
    sync::OnceLock,
    time::{Duration, Instant},
};

use marill_evals::sandbox::{Ending, Limits, Sandbox, SandboxError};

fn sandbox() -> Option<&'static Sandbox> {
    static SANDBOX: OnceLock<Option<Sandbox>> = OnceLock::new();
    let limits = Limits {
        wall: Duration::from_secs(6),
        cpu_seconds: 2,
        ..Limits::default()
    };
    let open = || match Sandbox::open(limits) {
        Ok(sandbox) => Some(sandbox),
        // A machine without the kernel's help refuses, which is what it should do.
        Err(error @ (SandboxError::CannotConfine { .. } | SandboxError::NoPython { .. })) => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    };
    SANDBOX.get_or_init(open).as_ref()
}

#[test]
fn a_good_program_finishes_and_a_wrong_one_fails() {
    let Some(sandbox) = sandbox() else { return };
    let add = "def add(a, b):\n    return a + b\n";
    assert_eq!(
        sandbox.run(&format!("{add}assert add(2, 3) == 5")).unwrap(),
        Ending::Finished
    );
    assert_eq!(
        sandbox.run(&format!("{add}assert add(2, 3) == 6")).unwrap(),
        Ending::Failed
    );
    assert_eq!(
        sandbox
            .run("import math, re, collections\nopen('/tmp/x', 'w').write('mine')")
            .unwrap(),
        Ending::Finished
    );
    assert_eq!(sandbox.run("def broken(:").unwrap(), Ending::Failed);
}

#[test]
fn leaving_before_the_checks_is_no_pass() {
    let Some(sandbox) = sandbox() else { return };
    for leave in [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "exit()",
        "raise SystemExit(0)",
    ] {
        assert_eq!(
            sandbox.run(&format!("{leave}\nassert False")).unwrap(),
            Ending::Failed,
            "{leave}"
        );
    }
}

#[test]
fn a_fork_bomb_ends() {
    let Some(sandbox) = sandbox() else { return };
    let start = Instant::now();
    let ending = sandbox
        .run("import os\nwhile True:\n    os.fork()")
        .unwrap();
    assert_ne!(ending, Ending::Finished);
    let patient = "import os, time\nwhile True:\n    try:\n        os.fork()\n    except \
        OSError:\n        time.sleep(0.1)";
    assert_eq!(sandbox.run(patient).unwrap(), Ending::OutOfTime);
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(
        sandbox.run("pass").unwrap(),
        Ending::Finished,
        "nothing is left that takes the room"
    );
}

#[test]
fn four_gibibytes_are_not_to_be_had() {
    let Some(sandbox) = sandbox() else { return };
    assert_eq!(
        sandbox.run("x = bytearray(4 << 30)").unwrap(),
        Ending::Failed
    );
    let caught = "try:\n    x = bytearray(4 << 30)\nexcept MemoryError:\n    pass\nelse:\n    \
        raise SystemExit(1)";
    assert_eq!(sandbox.run(caught).unwrap(), Ending::Finished);
}

#[test]
fn there_is_no_network() {
    let Some(sandbox) = sandbox() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = format!("import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)");
    assert_eq!(sandbox.run(&connect).unwrap(), Ending::Failed);
    assert!(listener.accept().is_err(), "something connected");
    assert_eq!(
        sandbox
            .run("import socket\nsocket.socket(socket.AF_UNIX)")
            .unwrap(),
        Ending::Failed
    );
}

#[test]
fn an_endless_loop_ends() {
    let Some(sandbox) = sandbox() else { return };
    let start = Instant::now();
    assert_ne!(
        sandbox.run("while True:\n    pass").unwrap(),
        Ending::Finished
    );
    assert_eq!(
        sandbox.run("import time\ntime.sleep(60)").unwrap(),
        Ending::OutOfTime
    );
    assert_ne!(
        sandbox.run("while True:\n    print('x' * 1000)").unwrap(),
        Ending::Finished
    );
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn nothing_outside_can_be_changed_or_signalled() {
    let Some(sandbox) = sandbox() else { return };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = dir.path().join("precious");
    std::fs::write(&file, "kept").unwrap();
    for attack in [
        "open(path, 'w')",
        "os.remove(path)",
        "os.chmod(path, 0)",
        "os.kill(pid, 9)",
    ] {
        let program = format!(
            "import os\npath = {file:?}\npid = {}\n{attack}",
            std::process::id()
        );
        assert_eq!(sandbox.run(&program).unwrap(), Ending::Failed, "{attack}");
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    let large = "with open('/tmp/large', 'wb') as f:\n    f.write(bytes(64 << 20))";
    assert_eq!(sandbox.run(large).unwrap(), Ending::Failed);
}
