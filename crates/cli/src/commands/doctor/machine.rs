//! What this machine has: processor, memory, disks, and what is cached on them.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
};

use marill_report::{bytes, count};

use super::check::Check;

/// Below this much free memory a client of a small model is killed; one of SmolLM2-135M holds
/// 0.9 GiB.
const LITTLE_MEMORY: u64 = 1 << 30;
const LITTLE_DISK: u64 = 2 << 30;
/// Records and checkpoints are not begun on less.
const NO_DISK: u64 = 64 << 20;
/// Files that are counted in a cache.
const MOST_FILES: u64 = 1_000_000;

/// What the processor offers, and whether there is a loopback network.
pub struct Machine {
    pub cores: usize,
    pub ring_kernels: &'static str,
    pub hardware_aes: bool,
    pub loopback: bool,
}

impl Machine {
    pub fn look() -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            ring_kernels: ring_kernels(),
            hardware_aes: hardware_aes(),
            loopback: TcpListener::bind("127.0.0.1:0").is_ok(),
        }
    }

    pub fn checks(&self) -> Vec<Check> {
        let aes = match self.hardware_aes {
            true => Check::ok("hardware AES", "yes"),
            false => Check::warning(
                "hardware AES",
                "no",
                "answers are right and slow; another processor makes masks faster",
            ),
        };
        let loopback = match self.loopback {
            true => Check::ok("loopback", "yes"),
            false => Check::failed(
                "loopback",
                "no port on 127.0.0.1 can be opened",
                "`marill demo` and services on this machine need one; look at firewall and sandbox",
            ),
        };
        vec![
            Check::ok("cores", self.cores.to_string()),
            Check::ok("ring kernels", self.ring_kernels),
            aes,
            loopback,
            memory(),
        ]
    }
}

/// Free and total memory in bytes, as `/proc/meminfo` has them.
fn parse_memory(text: &str) -> Option<(u64, u64)> {
    let of = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        let number = line.split_whitespace().nth(1)?;
        number.parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
    };
    Some((of("MemAvailable:")?, of("MemTotal:")?))
}

/// What a container's limit leaves, where there is one.
fn container_memory() -> Option<u64> {
    let of = |name: &str| {
        let text = fs::read_to_string(Path::new("/sys/fs/cgroup").join(name)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    Some(of("memory.max")?.saturating_sub(of("memory.current")?))
}

fn memory() -> Check {
    let found = fs::read_to_string("/proc/meminfo");
    let Some((free, all)) = found.ok().as_deref().and_then(parse_memory) else {
        return Check::warning(
            "memory",
            "this system does not say how much is free",
            "a client of SmolLM2-135M holds 0.9 GiB; see that as much is free",
        );
    };
    let free = container_memory().map_or(free, |left| left.min(free));
    let found = format!("{} of {} free", bytes(free), bytes(all));
    match free < LITTLE_MEMORY {
        true => Check::warning(
            "memory",
            found,
            "end other programs, or use a machine with more; `marill train --dry-run` says what a \
             run needs",
        ),
        false => Check::ok("memory", found),
    }
}

/// The folder, or the nearest above it that is there.
fn nearest(folder: &Path) -> PathBuf {
    let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.into());
    let found = whole.ancestors().find(|place| place.is_dir());
    found.unwrap_or(&whole).to_path_buf()
}

/// Whether something can be written where a folder is or will be, and how much; `flag` names
/// another place.
pub fn disk(name: &str, folder: &Path, flag: &str) -> Check {
    let name = format!("disk of {name}");
    let place = nearest(folder);
    let elsewhere = format!("name another folder with `{flag}`");
    if let Err(error) = tempfile::tempfile_in(&place) {
        let found = format!("`{}` cannot be written: {error}", place.display());
        return Check::failed(name, found, elsewhere);
    }
    let free = match rustix::fs::statvfs(&place) {
        Ok(found) => found.f_bavail.saturating_mul(found.f_frsize),
        Err(error) => {
            let found = format!("`{}` says no size: {error}", place.display());
            return Check::warning(name, found, elsewhere);
        }
    };
    rate(
        name,
        free,
        &format!("{} free in `{}`", bytes(free), folder.display()),
        &elsewhere,
    )
}

fn rate(name: String, free: u64, found: &str, elsewhere: &str) -> Check {
    let advice = format!("free some space there, or {elsewhere}");
    match free {
        0..NO_DISK => Check::failed(name, found, advice),
        NO_DISK..LITTLE_DISK => Check::warning(name, found, advice),
        _ => Check::ok(name, found),
    }
}

/// Bytes and files below a folder; links are not followed.
fn size_of(folder: &Path) -> (u64, u64) {
    let mut size = 0;
    let mut files = 0;
    let mut open = vec![folder.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => open.push(entry.path()),
                Ok(found) if found.is_file() => {
                    size += found.len();
                    files += 1;
                }
                _ => {}
            }
            if files >= MOST_FILES {
                return (size, files);
            }
        }
    }
    (size, files)
}

/// How much a cache holds.
pub fn cache(name: &str, folder: &Path) -> Check {
    let place = folder.display();
    let (size, files) = size_of(folder);
    let found = match files {
        0 => format!("nothing yet in `{place}`"),
        MOST_FILES.. => format!("more than {} in `{place}`", bytes(size)),
        _ => format!("{} in {} files in `{place}`", bytes(size), count(files)),
    };
    Check::ok(name, found)
}

#[cfg(target_arch = "x86_64")]
fn ring_kernels() -> &'static str {
    if is_x86_feature_detected!("avx512dq") {
        "AVX-512"
    } else if is_x86_feature_detected!("avx2") {
        "AVX2"
    } else {
        "scalar"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn ring_kernels() -> &'static str {
    "scalar"
}

#[cfg(target_arch = "x86_64")]
fn hardware_aes() -> bool {
    is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn hardware_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn hardware_aes() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::check::State;

    #[test]
    fn memory_is_read_as_linux_says_it() {
        let text = "MemTotal:       2048 kB\nMemFree: 3 kB\nMemAvailable:    1024 kB\n";
        assert_eq!(parse_memory(text), Some((1 << 20, 2 << 20)));
        assert_eq!(parse_memory("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn a_full_disk_fails_and_a_nearly_full_one_warns() {
        let state = |free| rate("disk".into(), free, "", "").state;
        assert_eq!(state(NO_DISK - 1), State::Failed);
        assert_eq!(state(NO_DISK), State::Warning);
        assert_eq!(state(LITTLE_DISK), State::Ok);
    }

    #[test]
    fn a_folder_that_will_be_made_is_judged_by_its_parent() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("a/b");
        assert_eq!(nearest(&below), folder.path());
        let check = disk("runs", &below, "--output-dir");
        assert_ne!(check.state, State::Failed, "{}", check.found);
        assert!(!below.exists());
        let refused = disk("runs", Path::new("/proc/1"), "--output-dir");
        assert_eq!(refused.state, State::Failed);
        assert!(refused.advice.unwrap().contains("`--output-dir`"));
    }

    #[test]
    fn a_cache_is_counted_without_its_links() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = folder.path().join("blobs");
        fs::create_dir(&blobs).unwrap();
        fs::write(blobs.join("a"), [0; 2048]).unwrap();
        std::os::unix::fs::symlink(blobs.join("a"), folder.path().join("link")).unwrap();
        assert_eq!(size_of(folder.path()), (2048, 1));
        assert!(
            cache("models", folder.path())
                .found
                .starts_with("2.00 KiB in 1 files")
        );
    }
}
