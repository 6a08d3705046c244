//! Every parser against changed inputs, for a few seconds in all, from a seed that a failure names.
//!
//! `MARILL_FUZZ_SEED` takes another seed, `MARILL_FUZZ_SECONDS` another time, `MARILL_FUZZ_TARGET`
//! one parser, and `MARILL_FUZZ_FROM` begins with a later input.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use marill_fuzz::{
    TARGETS, Target,
    mutate::{Random, mutate},
};

/// All parsers together. CI has no more to spare.
const SECONDS: u64 = 20;
/// One call takes milliseconds; a busy machine may take a thousand times that.
const HANG: Duration = Duration::from_secs(20);

/// What a parser may allocate beside [`Target::limit`] for every byte of its input: a value of a
/// tree takes 32 to 100 bytes, and `[` alone is one.
const PER_BYTE: usize = 128;

/// Counts what is allocated at a time, by all threads.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grow(bytes: usize) {
    let now = NOW.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(now, Relaxed);
}

// SAFETY: every call is handed on to the system's allocator with what it was given.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above; `at` came from `alloc` here, so from the system's.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grow(size);
        // SAFETY: as above.
        let moved = unsafe { System.realloc(at, layout, size) };
        NOW.fetch_sub(layout.size(), Relaxed);
        moved
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Ends the process when a call does not come back; the test harness could not.
struct Watch {
    /// Milliseconds since the start of the call that runs, 0 between calls.
    since: AtomicU64,
    started: Instant,
}

impl Watch {
    fn start() -> Arc<Self> {
        let watch = Arc::new(Self {
            since: AtomicU64::new(0),
            started: Instant::now(),
        });
        let seen = Arc::downgrade(&watch);
        thread::spawn(move || {
            while let Some(watch) = seen.upgrade() {
                let since = watch.since.load(Relaxed);
                let now = watch.started.elapsed().as_millis() as u64;
                if since != 0 && now.saturating_sub(since) > HANG.as_millis() as u64 {
                    say("a parser does not come back\n");
                    std::process::abort();
                }
                drop(watch);
                thread::sleep(Duration::from_millis(200));
            }
        });
        watch
    }

    fn over<T>(&self, run: impl FnOnce() -> T) -> T {
        let now = self.started.elapsed().as_millis() as u64;
        self.since.store(now.max(1), Relaxed);
        let result = run();
        self.since.store(0, Relaxed);
        result
    }
}

/// Past the harness, which keeps what is printed: an overflow of the stack ends the process.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
    )
}

/// Where an input goes that broke something.
fn keep(target: &Target, bytes: &[u8]) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.input", target.name));
    std::fs::write(&path, bytes).expect("room on the disk");
    path
}

fn try_target(target: &Target, seed: u64, time: Duration, watch: &Watch) {
    let corpus = (target.corpus)();
    for (n, bytes) in corpus.iter().enumerate() {
        let whole = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
        assert!(whole.is_ok(), "{}: valid input {n} panics", target.name);
    }
    let first = variable("MARILL_FUZZ_FROM").unwrap_or(0);
    let started = Instant::now();
    let mut at = first;
    while started.elapsed() < time {
        let name = target.name.bytes().fold(seed, |hash, byte| {
            hash.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte)
        });
        let bytes = mutate(&corpus, &mut Random::new(name ^ at.rotate_left(32)));
        let before = NOW.load(Relaxed);
        PEAK.store(before, Relaxed);
        let came_back =
            watch.over(|| catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes))).is_ok());
        let peak = PEAK.load(Relaxed).saturating_sub(before);
        let limit = target.limit + PER_BYTE * bytes.len();
        if !came_back || peak > limit {
            let path = keep(target, &bytes);
            panic!(
                "{}: input {at} of seed {seed} {} ({} bytes, kept in {})\nagain: \
                 MARILL_FUZZ_SEED={seed} MARILL_FUZZ_TARGET={} MARILL_FUZZ_FROM={at} cargo test -p \
                 marill-fuzz",
                target.name,
                match came_back {
                    true => format!("allocates {peak} bytes, {limit} are the limit"),
                    false => "panics".into(),
                },
                bytes.len(),
                path.display(),
                target.name,
            );
        }
        at += 1;
    }
    println!("{}: {} inputs, seed {seed}", target.name, at - first);
}

#[test]
fn parsers_withstand_changed_inputs() {
    let seed = variable("MARILL_FUZZ_SEED").unwrap_or(1);
    let seconds = variable("MARILL_FUZZ_SECONDS").unwrap_or(SECONDS);
    let only = std::env::var("MARILL_FUZZ_TARGET").ok();
    let targets: Vec<&Target> = TARGETS
        .iter()
        .filter(|target| only.as_ref().is_none_or(|only| only == target.name))
        .collect();
    assert!(!targets.is_empty(), "no parser is called {only:?}");
    let time = Duration::from_secs(seconds) / targets.len() as u32;
    // With `RUST_BACKTRACE` set, candle's errors look up names of functions; the tables that this
    // needs are read once and are no parser's.
    drop(std::backtrace::Backtrace::force_capture().to_string());
    let watch = Watch::start();
    for target in targets {
        say(&format!("fuzz: {} from seed {seed}\n", target.name));
        try_target(target, seed, time, &watch);
    }
}

#[test]
fn each_parser_has_a_libfuzzer_binary() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets");
    let files = std::fs::read_dir(folder).unwrap();
    let mut found: Vec<String> = files
        .map(|file| file.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    found.sort();
    let mut named: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    named.sort_unstable();
    assert_eq!(found, named);
}
