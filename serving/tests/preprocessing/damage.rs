//! Damaged and foreign files end a session with an error that names them.

use std::{fs, path::Path};

use marill_serving::{dealer::SERVER_KEY_FILE, server::PREPROCESSING_KEY_FILE};
use marill_testkit::parties::{World, wait_until};

use crate::files::{TOKENS, copy, files, from_file, no_file, started, write_files};

type Damage = fn(&mut Vec<u8>);

/// What is done to a file, and what is said of it.
const DAMAGES: [(&str, Damage, &str); 8] = [
    (
        "cut within the head",
        |bytes| bytes.truncate(10),
        "ends within its header",
    ),
    (
        "another kind",
        |bytes| bytes[0] ^= 1,
        "holds no correlations",
    ),
    (
        "a flipped bit in the head's session",
        |bytes| flip_in_head(bytes, b"\"session\":\""),
        "says something else",
    ),
    (
        "a flipped bit in the head's key",
        |bytes| flip_in_head(bytes, b"\"ephemeral_key\":\""),
        "not sealed to this server",
    ),
    (
        "a flipped bit in the first piece",
        |bytes| flip_piece(bytes, 0),
        "not sealed to this server",
    ),
    (
        "a flipped bit later",
        |bytes| flip_piece(bytes, 2),
        "altered or cut off",
    ),
    (
        "cut at the end",
        |bytes| bytes.truncate(bytes.len() - 3),
        "altered or cut off",
    ),
    (
        "without its last piece",
        |bytes| bytes.truncate(bytes.len() - 20),
        "altered or cut off",
    ),
];

#[test]
fn damaged_files_end_with_an_error_that_names_them() {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), DAMAGES.len());
    let world = started(folder);
    for (what, damage, expected) in DAMAGES {
        for file in files(world.folder.path()) {
            let mut bytes = fs::read(&file).unwrap();
            damage(&mut bytes);
            fs::write(file, bytes).unwrap();
        }
        let ended = from_file(&world.opener()).and_then(|mut session| {
            session.prefill(&world.rows(5, 4), 4)?;
            for _ in 1..TOKENS {
                session.decode(&world.rows(6, 1))?;
            }
            Ok(())
        });
        let error = ended.unwrap_err().to_string();
        assert!(error.contains(expected), "{what}: {error}");
        wait_until("the end of the session", || {
            world.parties.active() == [0, 0]
        });
        remove_files(&world);
        write_files(world.folder.path(), 1);
    }
}

fn remove_files(world: &World) {
    for file in files(world.folder.path()) {
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn files_of_another_server_or_dealer_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 1);
    let world = started(folder);
    let ours = world.folder.path();
    // Sealed to another server, or by a dealer who does not know this server's word.
    for (foreign, kept) in [
        ("server", format!("dealer/{SERVER_KEY_FILE}")),
        ("dealer", format!("server/{PREPROCESSING_KEY_FILE}")),
    ] {
        remove_files(&world);
        let other = tempfile::tempdir().unwrap();
        let theirs = other.path();
        fs::create_dir_all(theirs.join(&kept).parent().unwrap()).unwrap();
        fs::copy(ours.join(&kept), theirs.join(&kept)).unwrap();
        write_files(theirs, 1);
        for folder in ["files", "dealer/ahead"] {
            copy(&theirs.join(folder), &ours.join(folder));
        }
        copy_keys(&theirs.join("vault"), &ours.join("vault"));
        let error = no_file(&world.opener()).to_string();
        assert!(
            error.contains("not sealed to this server"),
            "another {foreign}: {error}"
        );
    }
}

/// Puts the keys of one dealer's vault into another's, which the name of its folder keeps apart.
fn copy_keys(from: &Path, to: &Path) {
    let folder_of = |vault: &Path| {
        fs::read_dir(vault)
            .unwrap()
            .map(|e| e.unwrap().path())
            .find(|p| p.is_dir())
            .unwrap()
    };
    copy(&folder_of(from), &folder_of(to));
}

fn flip_in_head(bytes: &mut [u8], before: &[u8]) {
    let at = bytes
        .windows(before.len())
        .position(|window| window == before)
        .unwrap()
        + before.len();
    bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
}

/// Flips a bit within a sealed piece.
fn flip_piece(bytes: &mut [u8], piece: usize) {
    let length = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut at = 12 + length(8);
    for _ in 0..piece {
        at += 4 + length(at);
    }
    bytes[at + 4] ^= 1;
}
