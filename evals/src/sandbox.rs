//! Where generated programs run: a Python child without network, that may neither write, nor
//! multiply, nor last.
//!
//! A program gets its own user, process, network, mount and IPC namespaces, read-only mounts, an
//! empty `/tmp` of its own, limits on processor time, memory, processes and files, and a filter
//! that refuses sockets. Whoever runs as root gives that up first. [`Sandbox::open`] tries all of
//! it on this machine and refuses when one of them does not hold.
//!
//! It bounds accidents and simple malice of a small model's programs. It does not hide files that
//! the user may read, and a hole in the kernel is a hole here.

#[cfg(target_os = "linux")]
mod confine;

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    path::PathBuf,
    time::Duration,
};

/// What one program may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Wall time, after which the program and all its children are killed.
    pub wall: Duration,
    pub cpu_seconds: u64,
    /// Address space of one process.
    pub memory_bytes: u64,
    /// Processes and threads at a time.
    pub processes: u64,
    /// The longest file, and all of `/tmp`.
    pub file_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let wall = Duration::from_secs(10);
        Self {
            wall,
            cpu_seconds: 5,
            memory_bytes: 512 << 20,
            processes: 8,
            file_bytes: 1 << 20,
        }
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its last line ran.
    Finished,
    /// An exception, a signal, a limit, or an exit before the last line.
    Failed,
    /// Killed when its wall time was over.
    OutOfTime,
}

/// Why programs are not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    #[error(
        "programs are not run: this system cannot confine them ({reason})\n\
         hint: it takes Linux 5.14 or newer on x86-64 or AArch64 with unprivileged user namespaces"
    )]
    CannotConfine { reason: String },
    #[error(
        "programs are not run: within the sandbox {held_not}\n\
         hint: score without `--allow-code-execution`"
    )]
    NotHeld { held_not: String },
    #[error(
        "there is no `python3` that the sandbox can start; tried {tried}\n\
         hint: install it under `/usr/bin`"
    )]
    NoPython { tried: String },
    #[error("cannot start a program")]
    Start { source: std::io::Error },
}

/// Runs programs, one at a time.
#[derive(Debug)]
pub struct Sandbox {
    python: PathBuf,
    limits: Limits,
}

/// What must hold, and how a program finds out; each part prints what it found to be untrue.
const PROBE: &str = r#"
import os, socket, sys

def refused(what, attempt, *errors):
    try:
        attempt()
    except errors:
        return
    except BaseException as e:
        what += f" ({type(e).__name__}: {e})"
    sys.stdout.write(what)
    sys.stdout.flush()
    os._exit(1)

def multiply():
    children = []
    try:
        for _ in range(64):
            pid = os.fork()
            if pid == 0:
                os.close(release)
                os.read(hold, 1)
                os._exit(0)
            children.append(pid)
    finally:
        os.close(release)
        for pid in children:
            os.waitpid(pid, 0)

hold, release = os.pipe()
refused("a socket could be made", lambda: socket.socket(), PermissionError)
refused("a local socket could be made", lambda: socket.socket(socket.AF_UNIX), PermissionError)
refused("4 GiB could be had", lambda: bytearray(4 << 30), MemoryError)
refused("files could be written", lambda: open("/var/tmp/written", "w"), OSError)
refused("64 processes could be started", multiply, BlockingIOError)
if os.getuid() == 0:
    sys.stdout.write("the program is root")
    os._exit(1)
if os.getpid() > 2:
    sys.stdout.write("other processes can be seen")
    os._exit(1)
"#;

impl Sandbox {
    /// Finds Python, and tries whether every limit holds on this machine.
    ///
    /// # Errors
    /// [`SandboxError::CannotConfine`], [`SandboxError::NoPython`] or [`SandboxError::NotHeld`].
    pub fn open(limits: Limits) -> Result<Self, SandboxError> {
        let mut tried = Vec::new();
        for python in pythons() {
            let sandbox = Self { python, limits };
            match sandbox.capture("pass") {
                Ok((Ending::Finished, _)) => return sandbox.hold(),
                Err(error @ SandboxError::CannotConfine { .. }) => return Err(error),
                _ => tried.push(format!("`{}`", sandbox.python.display())),
            }
        }
        Err(SandboxError::NoPython {
            tried: tried.join(", "),
        })
    }

    fn hold(self) -> Result<Self, SandboxError> {
        match self.capture(PROBE)? {
            (Ending::Finished, _) => Ok(self),
            (ending, said) if said.is_empty() => Err(SandboxError::NotHeld {
                held_not: format!("the trial ended otherwise than expected ({ending:?})"),
            }),
            (_, said) => Err(SandboxError::NotHeld { held_not: said }),
        }
    }

    /// Runs a program to its last line, to its own end, or to that of its time.
    ///
    /// # Errors
    /// [`SandboxError`] when no process can be started; what the program does is no error.
    pub fn run(&self, program: &str) -> Result<Ending, SandboxError> {
        Ok(self.capture(program)?.0)
    }

    /// Whether a program runs to its last line.
    ///
    /// # Errors
    /// As [`Sandbox::run`].
    pub fn passes(&self, program: &str) -> Result<bool, SandboxError> {
        Ok(self.run(program)? == Ending::Finished)
    }

    /// The ending and the end of what the program wrote.
    fn capture(&self, program: &str) -> Result<(Ending, String), SandboxError> {
        // A word that the program cannot know: `exit()` before the checks is no pass.
        let word = format!("{:016x}{:016x}", random(), random());
        let program = format!("{program}\n\nimport os as _os\n_os.write(1, b\"{word}\")\n");
        #[cfg(target_os = "linux")]
        return confine::run(&self.python, &self.limits, &program, &word);
        #[cfg(not(target_os = "linux"))]
        Err(SandboxError::CannotConfine {
            reason: format!("no Linux, {} bytes, {word}", program.len()),
        })
    }
}

/// Keys of a hash map come from the operating system.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Where Python may be, in the order of `$PATH`, then the usual places.
fn pythons() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/bin", "/usr/local/bin"].map(PathBuf::from));
    let mut found: Vec<PathBuf> = Vec::new();
    for folder in folders {
        let python = folder.join("python3");
        if python.is_absolute() && python.is_file() && !found.contains(&python) {
            found.push(python);
        }
    }
    found
}
