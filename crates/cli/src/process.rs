//! This very program as another process.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

const START_TIMEOUT: Duration = Duration::from_secs(60);
const LISTENING: &str = "listening on ";
/// How often a wait looks whether it should go on.
const LOOK: Duration = Duration::from_millis(100);

/// A service that ends with this value.
pub struct Service {
    name: &'static str,
    child: Child,
    pub url: String,
    /// What it says on standard error, line by line.
    heard: mpsc::Receiver<String>,
}

impl Service {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Starts `marill ARGS...` with these variables beside this process's own, waits until it says
    /// where it listens, and passes on all that it says, before and after. It waits `limit` for a
    /// line, and no longer once `stop` is set.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_aloud(
        name: &'static str,
        args: &[&str],
        folder: &Path,
        variables: &[(String, String)],
        (limit, stop): (Duration, &AtomicBool),
        say: impl Fn(&str) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let mut command = own(args)?;
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.current_dir(folder);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let mut service = Self::spawn(name, command)?;
        service.url = service.hear((limit, stop), &mut |line| say(line))?;
        let (_, nothing) = mpsc::channel();
        let heard = std::mem::replace(&mut service.heard, nothing);
        std::thread::spawn(move || heard.iter().for_each(|line| say(&line)));
        Ok(service)
    }

    /// Whether the process is there no more.
    ///
    /// # Errors
    /// The operating system's.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        let status = self.child.try_wait();
        Ok(status
            .with_context(|| format!("cannot see after the {}", self.name))?
            .is_some())
    }

    /// SIGTERM, at which services let their sessions end. No error: it may have ended by itself.
    pub fn ask_to_end(&self) {
        let pid = i32::try_from(self.child.id()).ok();
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    /// Starts `marill ARGS...` and waits until it says where it listens.
    ///
    /// # Errors
    /// What it said, when it does not start.
    pub fn start(name: &'static str, args: &[&str], folder: &Path) -> anyhow::Result<Self> {
        let mut command = own(args)?;
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.current_dir(folder);
        Self::spawn(name, command)?.wait_until_it_listens()
    }

    /// As [`Self::start`], with this on its standard input, for [`Self::finish`].
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(name: &'static str, args: &[&str], input: &[u8]) -> anyhow::Result<Self> {
        let mut command = own(args)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut service = Self::spawn(name, command)?;
        let stdin = service.child.stdin.take();
        let mut stdin = stdin.context("the child's standard input was asked for above")?;
        stdin
            .write_all(input)
            .with_context(|| format!("the {name} did not read its task"))?;
        // It reads to the end.
        drop(stdin);
        service.wait_until_it_listens()
    }

    fn spawn(name: &'static str, mut command: Command) -> anyhow::Result<Self> {
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start the {name}"))?;
        let stderr = child
            .stderr
            .take()
            .context("the child's standard error was asked for above")?;
        let (lines, heard) = mpsc::channel();
        // Reads to the end, so that the service never waits for room in the pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        let url = String::new();
        Ok(Self {
            name,
            child,
            url,
            heard,
        })
    }

    fn wait_until_it_listens(mut self) -> anyhow::Result<Self> {
        self.url = self.hear((START_TIMEOUT, &AtomicBool::new(false)), &mut |_| ())?;
        Ok(self)
    }

    /// Where it listens, after what it says before; with so much time between two lines.
    fn hear(
        &self,
        (limit, stop): (Duration, &AtomicBool),
        say: &mut dyn FnMut(&str),
    ) -> anyhow::Result<String> {
        let mut said = Vec::new();
        let mut quiet_since = Instant::now();
        loop {
            match self.heard.recv_timeout(LOOK) {
                Ok(line) => {
                    quiet_since = Instant::now();
                    say(&line);
                    match line.split_once(LISTENING) {
                        Some((_, url)) => {
                            // A line of the log in JSON goes on behind it.
                            let url = url.split(|c: char| c.is_whitespace() || c == '"').next();
                            return Ok(url.unwrap_or_default().to_string());
                        }
                        None => said.push(line),
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout)
                    if quiet_since.elapsed() < limit && !stop.load(Ordering::Relaxed) => {}
                Err(_) => bail!("the {} did not start: {}", self.name, said.join("; ")),
            }
        }
    }

    /// Waits for its end; what it wrote to standard output.
    ///
    /// # Errors
    /// What it said on standard error, when it failed.
    pub fn finish(mut self) -> anyhow::Result<Vec<u8>> {
        let mut written = Vec::new();
        if let Some(stdout) = &mut self.child.stdout {
            stdout.read_to_end(&mut written)?;
        }
        let status = self.child.wait()?;
        if !status.success() {
            let said: Vec<String> = self.heard.iter().collect();
            bail!("the {} failed: {}", self.name, said.join("; "));
        }
        Ok(written)
    }
}

/// This program with arguments.
fn own(args: &[&str]) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(program);
    command.args(args);
    Ok(command)
}

impl Drop for Service {
    fn drop(&mut self) {
        if self.child.kill().is_err() {
            eprintln!(
                "warning: could not end the {} (process {})",
                self.name,
                self.child.id()
            );
        }
        let _ = self.child.wait();
    }
}
