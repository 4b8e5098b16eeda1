//! Runs a command with a text and a time limit.

use std::io::Read;
use std::io::Write;
use std::process::Child;
use std::process::ChildStdout;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use crate::build::call::Calls;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;

/// Largest part of an error message that is stored, in bytes.
const LONGEST_MESSAGE: u64 = 1 << 14;
/// Largest output that is read, in bytes.
const LONGEST_OUTPUT: u64 = 1 << 30;
/// Bytes that the system holds for this process to read.
#[cfg(target_os = "linux")]
const PIPE: libc::c_int = 1 << 20;
/// Time between two reads of an output. A program writes a few KiB at a time, and each read that
/// waits for them wakes both processes.
const BETWEEN_READS: Duration = Duration::from_millis(1);
/// Characters of a message that are shown.
const SHOWN: usize = 200;

/// Result of a command.
pub(crate) struct Ended {
    /// True if its exit code was 0, in time.
    pub(crate) is_success: bool,
    /// Standard output of the command.
    pub(crate) output: Vec<u8>,
    /// Its standard error in one line, or what happened. It may hold keys.
    message: String,
}

impl Ended {
    /// The beginning of its message, without keys.
    pub(crate) fn told(&self, calls: &Calls) -> String {
        // Hidden first, then cut: a part of a key is not known as one.
        calls.hidden(&self.message).chars().take(SHOWN).collect()
    }
}

/// Runs a program with a text on its standard input.
///
/// # Errors
/// A program that cannot be started.
pub(crate) fn run(
    program: &str,
    arguments: &[String],
    input: &str,
    timeout: Duration,
) -> Result<Ended> {
    let mut command = Command::new(program);
    // A process group, so that processes that the program starts end with it.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| not_started(program, e))?;
    let stdin = child.stdin.take();
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let child = Mutex::new(Running {
        child,
        is_reaped: false,
    });
    let deadline = Instant::now() + timeout;
    std::thread::scope(|scope| {
        let (done, is_done) = mpsc::channel::<()>();
        let watched = &child;
        let watchdog = scope.spawn(move || {
            let is_late = is_done.recv_timeout(timeout) == Err(mpsc::RecvTimeoutError::Timeout);
            if is_late {
                end(&mut locked(watched));
            }
            is_late
        });
        let said = scope.spawn(move || {
            let mut message = Vec::new();
            if let Some(stderr) = stderr {
                let mut stderr = stderr;
                let _ = (&mut stderr)
                    .take(LONGEST_MESSAGE)
                    .read_to_end(&mut message);
                // The rest is read too, or the program would wait.
                let _ = std::io::copy(&mut stderr, &mut std::io::sink());
            }
            message
        });
        scope.spawn(move || {
            // A program that does not read its input is no error.
            if let Some(mut stdin) = stdin {
                let _ = stdin.write_all(input.as_bytes());
            }
        });
        let output = stdout.map(read_output).unwrap_or_default();
        let mut wait = Duration::from_micros(50);
        let status = loop {
            match locked(&child).try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < deadline + Duration::from_secs(1) => {}
                _ => break None,
            }
            std::thread::sleep(wait);
            wait = (2 * wait).min(Duration::from_millis(10));
        };
        drop(done);
        let is_late = watchdog.join().unwrap_or(false);
        let message = said.join().unwrap_or_default();
        let text = String::from_utf8_lossy(&message);
        let words: Vec<&str> = text.split_whitespace().collect();
        let message = match (is_late, words.is_empty()) {
            (true, _) => format!("it took longer than {} s", timeout.as_secs_f64()),
            (false, true) => format!("{program} gave no message"),
            (false, false) => words.join(" "),
        };
        Ok(Ended {
            is_success: !is_late && status.is_some_and(|status| status.success()),
            output,
            message,
        })
    })
}

/// Output of a program, up to its end.
fn read_output(stdout: ChildStdout) -> Vec<u8> {
    #[cfg(target_os = "linux")]
    // SAFETY: the descriptor is open. A size that the system refuses changes nothing.
    unsafe {
        libc::fcntl(
            std::os::fd::AsRawFd::as_raw_fd(&stdout),
            libc::F_SETPIPE_SZ,
            PIPE,
        );
    }
    let mut stdout = stdout.take(LONGEST_OUTPUT);
    let mut output = Vec::new();
    let mut part = vec![0; 1 << 16];
    loop {
        match stdout.read(&mut part) {
            Ok(0) => return output,
            Ok(len) => output.extend(&part[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return output,
        }
        std::thread::sleep(BETWEEN_READS);
    }
}

/// A program that was started.
struct Running {
    child: Child,
    /// Whether its status was read. Then its id may belong to another process.
    is_reaped: bool,
}

impl Running {
    fn try_wait(&mut self) -> std::io::Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        self.is_reaped |= status.is_some();
        Ok(status)
    }
}

/// Ends a program and what it started, also if the program itself has ended.
fn end(running: &mut Running) {
    if running.is_reaped {
        return;
    }
    #[cfg(unix)]
    if let Ok(group) = i32::try_from(running.child.id()) {
        // SAFETY: `kill` takes any numbers; the child still has its own, so the group is the one it
        // was started in.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
    let _ = running.child.kill();
}

fn locked(running: &Mutex<Running>) -> std::sync::MutexGuard<'_, Running> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The error for a program that cannot be started.
pub(crate) fn not_started(program: &str, error: std::io::Error) -> Error {
    let found = match error.kind() {
        std::io::ErrorKind::NotFound => Error::input(format!("`{program}` is not on the path"))
            .hint(format!(
                "install it, or give the path of the program; `which {program}` finds nothing"
            )),
        std::io::ErrorKind::PermissionDenied => {
            Error::input(format!("`{program}` may not be run: {error}"))
                .hint("make it executable: `chmod +x`")
        }
        _ => Error::new(
            Kind::Resource,
            format!("`{program}` cannot be started: {error}"),
        ),
    };
    found.caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, input: &str, timeout: Duration) -> Ended {
        let arguments = ["-c".to_owned(), script.to_owned()];
        run("sh", &arguments, input, timeout).unwrap()
    }

    #[test]
    fn commands_are_given_text_and_time() {
        let second = Duration::from_secs(20);
        let ended = shell("cat; echo oh  no >&2; exit 3", "نعم", second);
        assert_eq!(ended.output, "نعم".as_bytes());
        assert_eq!((ended.is_success, ended.message.as_str()), (false, "oh no"));
        assert!(shell("exit 0", &"x".repeat(1 << 20), second).is_success);
        let started = Instant::now();
        let ended = shell("sleep 100; true", "", Duration::from_millis(100));
        assert!(!ended.is_success && ended.message.contains("longer than 0.1 s"));
        assert!(started.elapsed() < Duration::from_secs(10));
        // What a program leaves behind keeps its output open.
        let started = Instant::now();
        let ended = shell("sleep 100 & exit 0", "", Duration::from_millis(200));
        assert!(!ended.is_success && started.elapsed() < Duration::from_secs(10));
        let long = shell("head -c 3000000 /dev/zero", "", second);
        assert!(long.is_success && long.output.len() == 3_000_000);
        let error = run("no-such-program-here", &[], "", second).err().unwrap();
        assert_eq!(error.exit_code(), 2);
    }
}
