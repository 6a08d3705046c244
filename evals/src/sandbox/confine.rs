//! Linux: namespaces, limits and the system call filter, set up between `fork` and `exec`.
//!
//! Only async-signal-safe calls are made there, and nothing is allocated: every text is made before
//! the fork.

use std::{
    ffi::CString,
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{Ending, Limits, SandboxError};

/// Whom root becomes; the number of `nobody`.
const NOBODY: libc::uid_t = 65_534;
/// What is kept of a program's output: its end.
const TAIL_BYTES: usize = 256;
const POLL: Duration = Duration::from_millis(5);

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xC000_00B7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const AUDIT_ARCH: u32 = 0;

pub(super) fn run(
    python: &Path,
    limits: &Limits,
    program: &str,
    word: &str,
) -> Result<(Ending, String), SandboxError> {
    if AUDIT_ARCH == 0 {
        return Err(SandboxError::CannotConfine {
            reason: "an architecture without a filter".into(),
        });
    }
    let plan = Plan::new(limits);
    let mut command = Command::new(python);
    command
        .args(["-I", "-B", "-"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LANG", "C.UTF-8");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .current_dir("/");
    // SAFETY: `confine` makes system calls only, on data that was prepared here and outlives the
    // fork.
    unsafe { command.pre_exec(move || plan.confine()) };
    let mut child = command
        .spawn()
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EACCES | libc::ENOENT | libc::ENOEXEC) => {
                SandboxError::Start { source: error }
            }
            _ => SandboxError::CannotConfine {
                reason: error.to_string(),
            },
        })?;
    let said = tail_of(&mut child);
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it was read to its end is reported by its ending.
        let _ = stdin.write_all(program.as_bytes());
    }
    let in_time = wait(&mut child, limits.wall).map_err(|source| SandboxError::Start { source })?;
    let said = said.join().unwrap_or_default();
    let ending = match (in_time, said.strip_suffix(word.as_bytes())) {
        (false, _) => Ending::OutOfTime,
        (true, Some(_)) => Ending::Finished,
        (true, None) => Ending::Failed,
    };
    Ok((ending, String::from_utf8_lossy(&said).trim().to_owned()))
}

/// Reads all output and keeps its end.
fn tail_of(child: &mut Child) -> thread::JoinHandle<Vec<u8>> {
    let stdout = child.stdout.take();
    thread::spawn(move || {
        let mut tail = Vec::new();
        let mut buffer = [0; 4096];
        let Some(mut stdout) = stdout else {
            return tail;
        };
        while let Ok(count @ 1..) = stdout.read(&mut buffer) {
            tail.extend_from_slice(&buffer[..count]);
            tail.drain(..tail.len().saturating_sub(TAIL_BYTES));
        }
        tail
    })
}

/// Whether the child ended by itself; otherwise it and everything within its namespace is killed.
fn wait(child: &mut Child, wall: Duration) -> io::Result<bool> {
    let start = Instant::now();
    while start.elapsed() < wall {
        if child.try_wait()?.is_some() {
            return Ok(true);
        }
        thread::sleep(POLL);
    }
    child.kill()?;
    child.wait()?;
    Ok(false)
}

/// All that the child needs between `fork` and `exec`.
struct Plan {
    is_root: bool,
    uid_map: CString,
    gid_map: CString,
    tmp_options: CString,
    limits: [(libc::__rlimit_resource_t, u64); 6],
    processes: u64,
    filter: [libc::sock_filter; 9],
}

impl Plan {
    fn new(limits: &Limits) -> Self {
        // SAFETY: the calls only read this process's ids.
        let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        let (uid, gid, is_root) = if uid == 0 {
            (NOBODY, NOBODY, true)
        } else {
            (uid, gid, false)
        };
        let text = |text: String| CString::new(text).expect("digits only");
        Self {
            is_root,
            uid_map: text(format!("{uid} {uid} 1")),
            gid_map: text(format!("{gid} {gid} 1")),
            tmp_options: text(format!("mode=777,size={}", limits.file_bytes)),
            limits: [
                (libc::RLIMIT_CPU, limits.cpu_seconds),
                (libc::RLIMIT_AS, limits.memory_bytes),
                (libc::RLIMIT_FSIZE, limits.file_bytes),
                (libc::RLIMIT_NOFILE, 64),
                (libc::RLIMIT_CORE, 0),
                (libc::RLIMIT_MEMLOCK, 0),
            ],
            processes: limits.processes,
            filter: filter(),
        }
    }

    fn confine(&self) -> io::Result<()> {
        // SAFETY: system calls with arguments that live in `self`; the process has one thread after
        // the fork.
        unsafe {
            if self.is_root {
                check(libc::setgroups(0, std::ptr::null()))?;
                check(libc::setresgid(NOBODY, NOBODY, NOBODY))?;
                check(libc::setresuid(NOBODY, NOBODY, NOBODY))?;
                // A change of user hides `/proc/self` from the process itself.
                check(libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0))?;
            }
            let namespaces = libc::CLONE_NEWUSER
                | libc::CLONE_NEWNET
                | libc::CLONE_NEWNS
                | libc::CLONE_NEWPID
                | libc::CLONE_NEWIPC
                | libc::CLONE_NEWUTS;
            check(libc::unshare(namespaces))?;
            write_file(c"/proc/self/setgroups", c"deny")?;
            write_file(c"/proc/self/uid_map", &self.uid_map)?;
            write_file(c"/proc/self/gid_map", &self.gid_map)?;
            self.mounts()?;
            for &(resource, limit) in &self.limits {
                set_limit(resource, limit)?;
            }
            // One more for the process that waits.
            set_limit(libc::RLIMIT_NPROC, self.processes + 1)?;
            match check(libc::fork())? {
                0 => {}
                child => wait_for(child),
            }
            // The first process of a namespace takes all others with it when it ends.
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            let program = libc::sock_fprog {
                len: self.filter.len() as u16,
                filter: self.filter.as_ptr().cast_mut(),
            };
            check(libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &program,
            ))?;
        }
        Ok(())
    }

    /// Read-only everywhere but in an empty `/tmp`, and nothing of other processes.
    unsafe fn mounts(&self) -> io::Result<()> {
        let none = std::ptr::null();
        // SAFETY: as in `confine`.
        unsafe {
            check(libc::mount(
                none,
                c"/".as_ptr(),
                none,
                libc::MS_REC | libc::MS_PRIVATE,
                none.cast(),
            ))?;
            let read_only = libc::mount_attr {
                attr_set: libc::MOUNT_ATTR_RDONLY,
                attr_clr: 0,
                propagation: 0,
                userns_fd: 0,
            };
            let size = size_of::<libc::mount_attr>();
            let root = c"/".as_ptr();
            let flags = libc::AT_RECURSIVE as libc::c_uint;
            check(
                libc::syscall(libc::SYS_mount_setattr, -1, root, flags, &read_only, size)
                    as libc::c_int,
            )?;
            let flags = libc::MS_NOSUID | libc::MS_NODEV;
            let tmpfs = c"tmpfs".as_ptr();
            let tmp = c"/tmp".as_ptr();
            check(libc::mount(
                tmpfs,
                tmp,
                tmpfs,
                flags,
                self.tmp_options.as_ptr().cast(),
            ))?;
            let options = c"mode=555,size=4096".as_ptr();
            check(libc::mount(
                tmpfs,
                c"/proc".as_ptr(),
                tmpfs,
                flags | libc::MS_RDONLY,
                options.cast(),
            ))?;
            check(libc::chdir(tmp))?;
        }
        Ok(())
    }
}

/// Refuses sockets, and the ways around that refusal.
fn filter() -> [libc::sock_filter; 9] {
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equal = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let at_least = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    let end = (libc::BPF_RET | libc::BPF_K) as u16;
    let line = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EACCES as u32;
    [
        line(load, 0, 0, 4), // The architecture, in `seccomp_data`.
        line(equal, 0, 6, AUDIT_ARCH),
        line(load, 0, 0, 0),               // The number of the call.
        line(at_least, 4, 0, 0x4000_0000), // x32's other numbers on x86-64.
        line(equal, 2, 0, libc::SYS_socket as u32),
        line(equal, 1, 0, libc::SYS_io_uring_setup as u32),
        line(end, 0, 0, libc::SECCOMP_RET_ALLOW),
        line(end, 0, 0, refuse),
        line(end, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
    ]
}

/// Waits for the program and ends as it did.
unsafe fn wait_for(child: libc::pid_t) -> ! {
    // SAFETY: as in `Plan::confine`; the pipes belong to the program, which must be the only one to
    // hold them.
    unsafe {
        libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
        let mut status = 0;
        while libc::waitpid(child, &mut status, 0) < 0 && *libc::__errno_location() == libc::EINTR {
        }
        libc::_exit(if libc::WIFEXITED(status) {
            libc::WEXITSTATUS(status)
        } else {
            1
        })
    }
}

unsafe fn set_limit(resource: libc::__rlimit_resource_t, limit: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: limit,
        rlim_max: limit,
    };
    // SAFETY: the limit lives on this stack.
    check(unsafe { libc::setrlimit(resource, &limit) }).map(drop)
}

unsafe fn write_file(path: &std::ffi::CStr, text: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: path and text end in zero and outlive the calls.
    unsafe {
        let file = check(libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC))?;
        let length = text.to_bytes().len();
        let written = libc::write(file, text.as_ptr().cast(), length);
        let error = io::Error::last_os_error();
        libc::close(file);
        if written == length as isize {
            Ok(())
        } else {
            Err(error)
        }
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
