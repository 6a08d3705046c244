//! Records over restarts, several processes, damage and a full disk.

use std::{
    io::Error as IoError,
    sync::atomic::{AtomicU64, Ordering},
};

use redb::StorageBackend;

use super::*;
use crate::state::takeover::KEYS_SEEN_FILE;

fn text(folder: &Path) -> String {
    let mut out = Vec::new();
    export(folder, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_session_is_claimed_once_per_role_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let store = Store::open(&path, WhenInUse::Fail).unwrap();
    store.claim("e0", "s").unwrap();
    store.claim("e1", "s").unwrap();
    assert!(matches!(
        store.claim("e0", "s"),
        Err(StateError::SessionUsed { .. })
    ));
    assert!(matches!(
        Store::open(&path, WhenInUse::Fail),
        Err(StateError::LedgerInUse { .. })
    ));
    assert_eq!(
        text(&path).lines().count(),
        2,
        "read beside the one who writes"
    );
    drop(store);
    let store = Store::open(&path, WhenInUse::Fail).unwrap();
    assert!(matches!(
        store.claim("e1", "s"),
        Err(StateError::SessionUsed { .. })
    ));
    store.claim("e1", "t").unwrap();
    assert!(store.is_claimed("e1", "t").unwrap() && !store.is_claimed("e0", "t").unwrap());
}

#[test]
fn several_processes_of_one_client_wait_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let path = folder.path();
            scope.spawn(move || {
                for n in 0..5 {
                    Store::open(path, WhenInUse::Wait)
                        .unwrap()
                        .claim("e0", &format!("{thread}-{n}"))
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(text(folder.path()).lines().count(), 20);
}

/// Charges are sums, a window of a minute, and never less than what was used.
#[test]
fn charges_survive_a_clock_that_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), WhenInUse::Fail).unwrap();
    let key = [7; 32];
    let charge = |now: u64, amount: (u64, u64)| {
        let mut seen = (Used::default(), Recent::new());
        let charged = store.charge(&key, now, amount, |used, recent| {
            seen = (used, recent.clone());
            Ok::<(), ()>(())
        });
        charged.unwrap().unwrap();
        seen
    };
    charge(100, (16, 1));
    charge(100, (1, 0));
    charge(130, (5, 1));
    let (used, recent) = charge(131, (0, 0));
    assert_eq!(
        (used, recent),
        (
            Used {
                tokens: 22,
                sessions: 2
            },
            vec![(100, 17, 1), (130, 5, 1)]
        )
    );
    let (_, recent) = charge(160, (0, 0));
    assert_eq!(
        recent,
        [(130, 5, 1), (131, 0, 0)],
        "a minute later it counts no more"
    );
    let (used, recent) = charge(50, (1, 0));
    assert_eq!(
        (used.tokens, recent),
        (22, Vec::new()),
        "what lies in the future locks nobody out"
    );
    charge(51, (u64::MAX, 0));
    let (used, _) = charge(52, (1, 0));
    assert_eq!(used.tokens, u64::MAX, "a sum stays at the end of its range");
    // Refused: nothing is charged.
    assert_eq!(
        store.charge(&key, 53, (1, 1), |_, _| Err(())).unwrap(),
        Err(())
    );
    drop(store);
    assert_eq!(
        crate::state::store::used(folder.path(), &key).unwrap(),
        Used {
            tokens: u64::MAX,
            sessions: 2
        }
    );
}

#[test]
fn an_old_folder_is_taken_over_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let digest = "ab".repeat(32);
    std::fs::write(path.join("ledger"), "e1 aa 100\nissued bb 101\ne1 torn").unwrap();
    let charges = format!("1 {digest} {} 1\n2 {digest} 5 1\n3 {digest} 1", u64::MAX);
    std::fs::write(path.join("charges"), &charges).unwrap();
    let expected = format!(
        "session e1 aa 100\nsession issued bb 101\ncharges {digest} {} 2\n",
        u64::MAX
    );
    for _ in 0..2 {
        drop(Store::open(path, WhenInUse::Fail).unwrap());
        assert!(text(path).starts_with(&expected), "{}", text(path));
        assert!(!path.join("ledger").exists() && path.join("ledger.taken-over").is_file());
        assert!(path.join(KEYS_SEEN_FILE).is_file());
    }
    // As after a crash between the transaction and the renaming: the same charges are not added
    // again.
    std::fs::write(
        path.join("charges"),
        charges.replace(&u64::MAX.to_string(), "7"),
    )
    .unwrap();
    drop(Store::open(path, WhenInUse::Fail).unwrap());
    let after = text(path);
    std::fs::copy(path.join("charges.taken-over-2"), path.join("charges")).unwrap();
    drop(Store::open(path, WhenInUse::Fail).unwrap());
    assert_eq!(text(path), after);

    for (name, line) in [
        ("ledger", "e1 aa"),
        ("ledger", "e1 aa soon"),
        ("charges", "1 zz 1 1"),
        ("charges", "x"),
    ] {
        std::fs::write(path.join(name), format!("\n{line}\n")).unwrap();
        let error = Store::open(path, WhenInUse::Fail)
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("{name}`")) && error.contains("line 2"),
            "{error}"
        );
        std::fs::remove_file(path.join(name)).unwrap();
    }
    std::fs::write(path.join("ledger"), [0xff, 0xfe, 10]).unwrap();
    let error = Store::open(path, WhenInUse::Fail)
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(error.contains("ledger`"), "{error}");
}

#[test]
fn damaged_records_are_refused_by_their_path() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), WhenInUse::Fail).unwrap();
    (0..200).for_each(|n| store.claim("e1", &format!("{n:032x}")).unwrap());
    drop(store);
    let path = folder.path().join(RECORDS_FILE);
    let good = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        std::fs::write(&path, bytes).unwrap();
        let error = Store::open(folder.path(), WhenInUse::Fail)
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(error.contains(RECORDS_FILE), "{what}: {error}");
    };
    refused(b"", "empty");
    refused(&good[..good.len() / 2], "cut");
    refused(b"no database at all", "another kind");
    refused(&vec![0; good.len()], "zeros");
    // A bit of a record's page: somewhere the names of sessions stand.
    let at = good
        .windows(8)
        .position(|window| window == b"e1 00000")
        .unwrap();
    let mut flipped = good.clone();
    flipped[at + 20] ^= 1;
    refused(&flipped, "a flipped bit");
    std::fs::write(&path, &good).unwrap();
    let store = Store::open(folder.path(), WhenInUse::Fail).unwrap();
    assert!(store.claim("e1", &format!("{:032x}", 7)).is_err());
}

/// A disk with room for so many bytes.
#[derive(Clone, Debug)]
struct Disk {
    content: Arc<Mutex<Vec<u8>>>,
    room: Arc<AtomicU64>,
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, IoError> {
        Ok(self.content.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), IoError> {
        out.copy_from_slice(&self.content.lock().unwrap()[offset as usize..][..out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), IoError> {
        if len > self.room.load(Ordering::Relaxed) {
            return Err(IoError::from(std::io::ErrorKind::StorageFull));
        }
        self.content.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), IoError> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        if self.room.load(Ordering::Relaxed) == 0 {
            return Err(IoError::from(std::io::ErrorKind::StorageFull));
        }
        self.content.lock().unwrap()[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }
}

#[test]
fn a_full_disk_loses_the_new_record_and_no_other() {
    let disk = Disk {
        content: Arc::default(),
        room: Arc::new(AtomicU64::new(u64::MAX)),
    };
    let backend = disk.clone();
    let opener: Opener = Box::new(move || Builder::new().create_with_backend(backend.clone()));
    let store = Store {
        path: "records".into(),
        opener,
        database: Mutex::default(),
    };
    store.claim("e1", "before").unwrap();
    disk.room.store(0, Ordering::Relaxed);
    for _ in 0..2 {
        let error = store.claim("e1", "meanwhile").unwrap_err().to_string();
        assert!(
            error.contains("records") && error.contains("storage"),
            "{error}"
        );
    }
    disk.room.store(u64::MAX, Ordering::Relaxed);
    store.claim("e1", "meanwhile").unwrap();
    assert!(matches!(
        store.claim("e1", "before"),
        Err(StateError::SessionUsed { .. })
    ));
    assert!(matches!(
        store.claim("e1", "meanwhile"),
        Err(StateError::SessionUsed { .. })
    ));
}

/// A durable charge is a transaction with one or two waits for the disk. On a disk, not on a file
/// system in memory.
#[test]
#[ignore = "measures the disk: run it with --nocapture"]
fn what_a_charge_costs() {
    let folder = tempfile::tempdir_in(".").unwrap();
    let store = Store::open(folder.path(), WhenInUse::Fail).unwrap();
    let time = |what: &str, each: &dyn Fn(u64)| {
        let started = Instant::now();
        (0..500).for_each(each);
        println!("{what}: {:.3} ms", started.elapsed().as_secs_f64() * 2.0);
    };
    time("a charge", &|n| {
        store
            .charge(&[1; 32], 100 + n / 100, (1, 0), |_, _| Ok::<(), ()>(()))
            .unwrap()
            .unwrap();
    });
    time("a claim", &|n| {
        store.claim("e1", &format!("{n:032x}")).unwrap()
    });
    let path = folder.path().join("lines");
    time("a line, written and synced", &|_| {
        use std::io::Write;
        let mut file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        file.write_all(&[b'x'; 80])
            .and_then(|()| file.sync_data())
            .unwrap();
    });
    drop(store);
    time("a client's claim, records opened and closed", &|n| {
        Store::open(folder.path(), WhenInUse::Wait)
            .unwrap()
            .claim("e0", &format!("{n:032x}"))
            .unwrap();
    });
}
