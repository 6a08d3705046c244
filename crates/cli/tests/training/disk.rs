//! A full disk, and files that a run can do without.

use std::process::{Command, Output};

use crate::{Place, newest_step, stderr};

/// A training in which no file may grow beyond 8 KiB: writing fails as it does on a full disk.
#[cfg(unix)]
fn limited(place: &Place, args: &str) -> Output {
    let script =
        format!("trap '' XFSZ; ulimit -f 8; exec \"$0\" train tune.toml --no-progress {args}");
    let mut command = Command::new("sh");
    command
        .args(["-c", &script, env!("CARGO_BIN_EXE_marill")])
        .current_dir(place.dir.path());
    command
        .env("MARILL_CACHE", place.path("small"))
        .output()
        .unwrap()
}

#[test]
#[cfg(unix)]
fn on_a_full_disk_the_last_good_checkpoint_stays() {
    let place = Place::new();
    let output = place
        .tune("2", "tuned", &["--set", "train.max_steps=4"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    std::fs::remove_file(place.path("tuned/adapter.safetensors")).unwrap();
    let good = place.path("tuned/checkpoints/step-000003");
    let state = std::fs::read(good.join("state.safetensors")).unwrap();

    let output = limited(&place, "--set train.max_steps=4 --resume");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("cannot write `tuned/adapter.safetensors`"),
        "{}",
        stderr(&output)
    );
    assert!(
        !place.path("tuned/adapter.safetensors").exists(),
        "half an adapter is none"
    );
    assert!(
        stderr(&output).contains("`--resume` goes on from `tuned/checkpoints/"),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        std::fs::read(good.join("state.safetensors")).unwrap(),
        state
    );

    let output = limited(&place, "--output-dir fresh");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("cannot write the checkpoint `fresh/checkpoints/step-000003`"),
        "{}",
        stderr(&output)
    );
    assert!(
        stderr(&output).contains("hint: make space"),
        "{}",
        stderr(&output)
    );
    assert_eq!(newest_step(&place.path("fresh")), 0);
}

#[test]
#[cfg(unix)]
fn a_run_that_fits_the_disk_is_kept_where_its_export_does_not() {
    let place = Place::new();
    // A run whose own files are small enough, and whose partition is not.
    let small =
        "--set train.max_steps=2 --set lora.rank=1 --set 'lora.target_modules=[\"q_proj\"]'";
    let output = limited(&place, &format!("{small} --output-dir 7"));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(
        said.contains("not exported") && said.contains("7/export.partial-"),
        "{said}"
    );
    assert!(
        said.contains("public/model.safetensors") && said.contains("hint: `marill export 7`"),
        "{said}"
    );
    assert!(place.path("7/adapter.safetensors").exists() && !place.path("7/export").exists());
}

#[test]
#[cfg(unix)]
fn a_run_needs_no_cache_but_a_whole_checkpoint() {
    let place = Place::new();
    let output = place
        .tune("2", "again", &["--resume", "--set", "train.max_steps=4"])
        .env("MARILL_CACHE", "/dev/null/no")
        .output();
    let output = output.unwrap();
    assert!(
        output.status.success() && stderr(&output).contains("not kept for later runs"),
        "{}",
        stderr(&output)
    );
    assert!(
        stderr(&output).contains("`again/checkpoints` holds no checkpoint"),
        "{}",
        stderr(&output)
    );

    std::fs::write(
        place.path("again/checkpoints/step-000004/state.safetensors"),
        [0; 9],
    )
    .unwrap();
    let output = place
        .tune("2", "again", &["--resume", "--set", "train.max_steps=4"])
        .output()
        .unwrap();
    let said = stderr(&output);
    assert!(
        said.contains("step-000004` cannot be resumed")
            && said.contains("it is damaged; remove it"),
        "{said}"
    );
    assert!(
        said.contains("goes on from `again/checkpoints/step-000003`"),
        "{said}"
    );
}
