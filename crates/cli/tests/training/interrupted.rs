//! Runs that are killed or stopped, and go on.

use std::{
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use crate::{Place, newest_step, stderr};

/// Ends a run as `kill -9` does, some time after a checkpoint of `step` or a later one is there.
fn kill_after(mut child: Child, run: &Path, step: usize, delay: Duration) -> usize {
    let patience = Instant::now() + Duration::from_secs(120);
    while newest_step(run) < step {
        assert!(
            child.try_wait().unwrap().is_none(),
            "the run ended before it could be killed"
        );
        assert!(Instant::now() < patience, "no checkpoint of step {step}");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(delay);
    child.kill().unwrap();
    child.wait().unwrap();
    newest_step(run)
}

#[test]
fn a_run_killed_five_times_leaves_what_a_whole_one_leaves() {
    let place = Place::new();
    for threads in ["1", "2"] {
        let output = place
            .tune(threads, &format!("whole{threads}"), &[])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert_eq!(
        place.adapter("whole1"),
        place.adapter("whole2"),
        "threads change nothing"
    );

    // Steps and delays from a fixed sequence; killed at other moments of a step, and of writing a
    // checkpoint.
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = |bound: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let mut kills = Vec::new();
    for nth in 0..5 {
        let more: &[&str] = if nth == 0 { &[] } else { &["--resume"] };
        let child = place
            .tune(if nth % 2 == 0 { "2" } else { "1" }, "killed", more)
            .spawn()
            .unwrap();
        let after = kills.last().copied().unwrap_or(0) + 3 + random(4) as usize;
        kills.push(kill_after(
            child,
            &place.path("killed"),
            after,
            Duration::from_micros(random(20_000)),
        ));
        assert!(
            !place.path("killed/adapter.safetensors").exists(),
            "killed too late: {kills:?}"
        );
    }
    let output = place.tune("1", "killed", &["--resume"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        place.adapter("killed"),
        place.adapter("whole1"),
        "killed behind steps {kills:?}"
    );
    let lines = std::fs::read_to_string(place.path("killed/metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 60);
}

#[test]
#[cfg(unix)]
fn a_stopped_run_leaves_a_checkpoint_and_goes_on_from_it() {
    let place = Place::new();
    let output = place.tune("2", "whole", &[]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    for (signal, dir) in [("TERM", "terminated"), ("INT", "interrupted")] {
        let child = place.tune("2", dir, &[]).spawn().unwrap();
        let patience = Instant::now() + Duration::from_secs(120);
        while newest_step(&place.path(dir)) < 3 {
            assert!(Instant::now() < patience, "no checkpoint of step 3");
            std::thread::sleep(Duration::from_millis(1));
        }
        let told = Command::new("kill")
            .args([format!("-{signal}"), child.id().to_string()])
            .status()
            .unwrap();
        assert!(told.success());
        let output = child.wait_with_output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(130), "{signal}: {said}");
        assert!(
            said.contains("stopping after this step")
                && said.contains("hint: `--resume` goes on from"),
            "{said}"
        );
        assert!(!place.path(dir).join("adapter.safetensors").exists());
        // A second run in the folder of one that runs is refused; one that ended holds nothing.
        let output = place.tune("2", dir, &["--resume"]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(place.adapter(dir), place.adapter("whole"), "{signal}");
    }
}
